//! A configuration of any text is refused or makes a network, and never a panic.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(config) = sluicegate_host::NetworkConfig::from_json(text) {
        let _ = config.to_core(0, [7; 16]);
        let _ = config.for_tenant().to_core(0, [7; 16]);
    }
});
