;; A component that answers no requests: nothing is exported that a host could call.
(component
  (core module $empty)
  (core instance (instantiate $empty)))
