//! Takes an order, as `order.yaml` says: charge, wait, ship; a large order waits for a signal first.

ringfence_sdk::definition!("order.yaml");
