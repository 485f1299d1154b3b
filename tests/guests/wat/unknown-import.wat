;; A well-formed handler that also imports an interface no host offers: the upload is refused and the import is named.
(component
  (import "acme:nothing/here" (instance $nothing (export "reach" (func))))
  (import "wasi:http/types@0.2.0" (instance $types
    (export "incoming-request" (type (sub resource)))
    (export "response-outparam" (type (sub resource)))))
  (alias export $types "incoming-request" (type $request))
  (alias export $types "response-outparam" (type $outparam))

  (core func $reach (canon lower (func $nothing "reach")))
  (core module $reacher
    (import "nothing" "reach" (func $reach))
    (func (export "handle") (param i32 i32) (call $reach)))
  (core instance $imports (export "reach" (func $reach)))
  (core instance $instance (instantiate $reacher (with "nothing" (instance $imports))))
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
