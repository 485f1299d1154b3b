//! A stranger's bytes at one door; what must hold there says `host/control/src/doors.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_control::doors::sign_in_body(data));
