//! `max_buffered_bytes`: how much the TCP flows of a network may buffer, all together.
//!
//! It is divided among as many flows as there may be, once: each has buffers of so many bytes, and
//! what does not fit waits where it comes from, as TCP has it. So nothing is counted while bytes
//! pass, no flow takes another's share, none is refused for want of one, and the bound is that of
//! the memory itself. To have larger buffers of the same memory, allow fewer connections.
//!
//! What each has stays while the network runs. So another bound is kept by how many connections
//! there may be: who lowers it lowers that too, and who only raises it gains no larger buffers.

use sluicegate_core::{Config, ConfigError, limits};

/// Bytes of the buffers of each of `flows` flows, from the guest and to it, where all of them
/// together may have `bytes`.
///
/// # Errors
/// It is too little for so many flows.
pub(super) fn divide(bytes: Option<u64>, flows: u32) -> Result<(usize, usize), ConfigError> {
    let Some(bytes) = bytes.filter(|bytes| *bytes > 0) else {
        return Ok((limits::TCP_RECEIVE_BYTES, limits::TCP_SEND_BYTES));
    };
    let share = bytes / (2 * u64::from(flows.max(1)));
    let share = usize::try_from(share).unwrap_or(usize::MAX);
    if share < limits::TCP_BUFFER_BYTES_MIN {
        let expected = "32768 or more for each of max_connections, or 0";
        return Err(ConfigError::new("max_buffered_bytes", bytes, expected));
    }
    // The largest power of two that is not more.
    let whole = 1 << share.ilog2();
    Ok((whole.min(limits::TCP_RECEIVE_BYTES), whole.min(limits::TCP_SEND_BYTES)))
}

/// Checks that as many flows as `core` allows, each of which has had its buffers since the start,
/// have no more than `bytes` together.
///
/// # Errors
/// They could have more.
pub(crate) fn check(bytes: Option<u64>, core: &Config) -> Result<(), ConfigError> {
    let Some(bytes) = bytes.filter(|bytes| *bytes > 0) else { return Ok(()) };
    let each = (core.tcp_receive_bytes + core.tcp_send_bytes) as u64;
    let flows = core.tcp_flows_max;
    if u64::from(flows) * each <= bytes {
        return Ok(());
    }
    let value = format_args!("{bytes} ({flows} times {each} since the start)");
    let expected = "as much as max_connections have, each of what it had at the start; \
                    lower both together";
    Err(ConfigError::new("max_buffered_bytes", value, expected))
}

#[cfg(test)]
mod tests {
    use crate::NetworkConfig;

    fn load(json: &str) -> Result<[usize; 2], String> {
        let config = NetworkConfig::from_json(json).map_err(|error| error.to_string())?;
        let core = config.to_core(0, [0; 16]).map_err(|error| error.to_string())?;
        Ok([core.tcp_receive_bytes, core.tcp_send_bytes])
    }

    #[test]
    fn all_buffers_together_are_no_more_than_was_said_and_none_is_larger_than_usual() {
        for (json, expected) in [
            ("{}", 512 * 1024),
            (r#"{"max_buffered_bytes": 0}"#, 512 * 1024),
            (r#"{"max_buffered_bytes": 134217728}"#, 16 * 1024),
            (r#"{"max_buffered_bytes": 300000000}"#, 32 * 1024),
            (r#"{"max_buffered_bytes": 1048576, "max_connections": 8}"#, 64 * 1024),
            (r#"{"max_buffered_bytes": 18446744073709551615}"#, 512 * 1024),
            (r#"{"max_buffered_bytes": 2147483648, "max_connections": 0}"#, 16 * 1024),
        ] {
            assert_eq!(load(json), Ok([expected; 2]), "{json}");
        }
    }

    #[test]
    fn too_little_is_refused_with_the_way_out() {
        for json in [
            r#"{"max_buffered_bytes": 134217727}"#,
            r#"{"max_buffered_bytes": 1}"#,
            r#"{"max_buffered_bytes": 2147483647, "max_connections": 0}"#,
        ] {
            let error = load(json).unwrap_err();
            let expected = "is not 32768 or more for each of max_connections";
            assert!(error.contains(expected) && error.contains("max_buffered_bytes: "), "{error}");
        }
        assert!(load(r#"{"max_buffered_bytes": -1}"#).unwrap_err().contains("max_buffered_bytes"));
    }
}
