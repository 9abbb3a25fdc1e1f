#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ovs_agent::laws::netavark(data));
