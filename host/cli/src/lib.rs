//! The verbs of the ringfence command; speaks the control API only.
