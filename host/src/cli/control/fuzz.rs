//! Requests of any bytes to the control socket, of a network that has not begun: what it would
//! change is read and prepared, and then there is nobody to do it. For tests and cargo-fuzz only;
//! time is virtual, so that what would hang for ever is seen at once.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sluicegate_host::{ControlHandle, NetworkConfig, SmoltcpNetwork};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use tokio::time::{sleep, timeout};

use super::{Desk, Document, converse};

/// What holds: its secret's value is shown to nobody.
const CONFIG: &str = r#"{"tls": {"enabled": true}, "secrets": {"secrets": [
    {"env_var": "KEY", "value": "a-value-that-is-not-shown", "allowed_hosts": ["good.test"]}]}}"#;
const VALUE: &[u8] = b"a-value-that-is-not-shown";

/// Bytes of each pipe.
const PIPE_BYTES: usize = 64 * 1024;
/// Who asks says no more after that, and has gone by then; a while later nothing is left of it.
const PAUSE: Duration = Duration::from_secs(5);
const GONE: Duration = Duration::from_secs(60);
const ENDED: Duration = Duration::from_secs(120);

/// The network that is asked.
static CONTROL: LazyLock<(NetworkConfig, ControlHandle)> = LazyLock::new(|| {
    let config = NetworkConfig::from_json(CONFIG).expect("because it is a good one");
    let mut network = SmoltcpNetwork::new(config.clone(), 0);
    (config, network.control_handle())
});

/// The first byte says how many bytes of the rest are said at a time.
///
/// # Panics
/// If a connection has no end, or the value of a secret is shown.
pub(crate) fn control(data: &[u8]) {
    let Some((&cuts, words)) = data.split_first() else { return };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build();
    let runtime = runtime.expect("because it takes no more than memory");
    let (config, handle) = &*CONTROL;
    let document = Document::first(CONFIG, config);
    let document = document.unwrap_or_else(|failure| panic!("{failure}"));
    let desk = Arc::new(Desk::new(handle.clone(), |config| config, document));
    runtime.block_on(async {
        let (near, far) = duplex(PIPE_BYTES);
        let asking = async {
            let (mut from, mut to) = split(far);
            let saying = async {
                for piece in words.chunks(if cuts == 0 { PIPE_BYTES } else { cuts.into() }) {
                    if to.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                sleep(PAUSE).await;
                // Who has gone already needs no end.
                let _ = to.shutdown().await;
            };
            let mut heard = vec![];
            let hearing = from.read_to_end(&mut heard);
            let _ = timeout(GONE, async { tokio::join!(saying, hearing) }).await;
            heard
        };
        let both = timeout(ENDED, async { tokio::join!(converse(near, desk), asking) }).await;
        let Ok(((), heard)) = both else { panic!("the connection has no end") };
        // Who says it is told what is wrong with what it said.
        let is_in = |bytes: &[u8]| bytes.windows(VALUE.len()).any(|window| window == VALUE);
        assert!(is_in(words) || !is_in(&heard), "the value of a secret is shown");
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn requests_of_any_bytes_are_answered_or_end() {
        sim::fuzz::run("control", super::control);
    }
}
