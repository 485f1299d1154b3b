;; A handler that grows a table, a million entries at a time, until it is refused; then it traps. Tables cost the host
;; memory just as linear memories do, and no Rust guest can grow one.
(component
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))

  (core module $grower
    (table $table 1 funcref)
    (func (export "handle") (param i32 i32)
      (loop $again
        (br_if $again (i32.ne (table.grow $table (ref.null func) (i32.const 1000000)) (i32.const -1))))
      unreachable))
  (core instance $instance (instantiate $grower))
  (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
    (canon lift (core func $instance "handle")))

  (component $handler
    (import "request" (type $request (sub resource)))
    (import "outparam" (type $outparam (sub resource)))
    (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
    (export $incoming "incoming-request" (type $request))
    (export $outgoing "response-outparam" (type $outparam))
    (export "handle" (func $handle)
      (func (param "request" (own $incoming)) (param "response-out" (own $outgoing)))))
  (instance $exported (instantiate $handler
    (with "request" (type $request)) (with "outparam" (type $outparam)) (with "handle" (func $handle))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $exported)))
