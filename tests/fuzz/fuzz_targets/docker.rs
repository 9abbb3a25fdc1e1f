#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ovs_agent_docker::laws::docker(data));
