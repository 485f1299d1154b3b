//! Two definitions: `family` begins `part` in two branches and tells a queue what came of it.

ringfence_sdk::definition!("family.yaml", "part.yaml");
