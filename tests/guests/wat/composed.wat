;; Two components composed into one when it is built, as `wac plug` does: the plugin answers a hook with the number that the
;; library beside it says. Written by hand, so that the test needs no composer.
(component
  (component $library
    (core module $code (func (export "number") (result i32) (i32.const 7)))
    (core instance $code (instantiate $code))
    (func $number (result u32) (canon lift (core func $code "number")))
    (instance $numbers (export "number" (func $number)))
    (export "example:library/numbers" (instance $numbers)))

  (component $plugin
    (import "example:library/numbers" (instance $numbers (export "number" (func (result u32)))))
    (core func $number (canon lower (func $numbers "number")))
    (core instance $library (export "number" (func $number)))
    (core module $code
      (import "library" "number" (func $number (result i32)))
      (memory (export "memory") 1)
      (global $free (mut i32) (i32.const 1024))
      (data (i32.const 16) "{\"count\":0}")
      (func (export "realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
        (global.set $free (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
      ;; The parameters are payload and context, flattened. At 0 lies `ok` with where the answer's bytes are; its one digit is
      ;; at 25.
      (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (i32.store8 (i32.const 25) (i32.add (i32.const 48) (call $number)))
        (i32.store (i32.const 4) (i32.const 16))
        (i32.store (i32.const 8) (i32.const 11))
        (i32.const 0)))
    (core instance $code (instantiate $code (with "library" (instance $library))))
    (type $context (record
      (field "name" string) (field "id" string) (field "attempt" u32) (field "at" string)
      (field "attributes" (list (tuple string string)))))
    (type $failure (variant (case "refused" string) (case "retry" string) (case "failed" string)))
    (func $handle
      (param "payload" (list u8)) (param "context" $context) (result (result (list u8) (error $failure)))
      (canon lift (core func $code "handle")
        (memory (core memory $code "memory")) (realloc (core func $code "realloc"))))

    (component $hook
      (type $record (record
        (field "name" string) (field "id" string) (field "attempt" u32) (field "at" string)
        (field "attributes" (list (tuple string string)))))
      (import "import-context" (type $context (eq $record)))
      (type $variant (variant (case "refused" string) (case "retry" string) (case "failed" string)))
      (import "import-failure" (type $failure (eq $variant)))
      (import "import-handle" (func $handle
        (param "payload" (list u8)) (param "context" $context) (result (result (list u8) (error $failure)))))
      (export $named-context "context" (type $context))
      (export $named-failure "failure" (type $failure))
      (export "handle" (func $handle) (func
        (param "payload" (list u8)) (param "context" $named-context)
        (result (result (list u8) (error $named-failure))))))
    (instance $hook (instantiate $hook
      (with "import-context" (type $context))
      (with "import-failure" (type $failure))
      (with "import-handle" (func $handle))))
    (export "ringfence:plugin/hook@0.1.0" (instance $hook)))

  (instance $library (instantiate $library))
  (instance $plugin (instantiate $plugin
    (with "example:library/numbers" (instance $library "example:library/numbers"))))
  (export "ringfence:plugin/hook@0.1.0" (instance $plugin "ringfence:plugin/hook@0.1.0")))
