//! The data plane: listen, route, invoke, reply.
