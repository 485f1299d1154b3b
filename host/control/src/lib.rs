//! The control-plane API: one file per endpoint group, wire types, OpenAPI.
