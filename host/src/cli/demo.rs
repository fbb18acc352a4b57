//! `sluicegate demo`: a guest goes online before your eyes, without the internet.
//!
//! Owns the course of the demonstration and how it is shown. The servers on the host's loopback are
//! `demo/servers.rs`; the guest, this same program inside a network namespace, is `demo/guest.rs`
//! and reports line by line. Must not know how any step is done.

pub(crate) mod guest;
mod live;
mod secret;
mod servers;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};
use sluicegate_core::addr::INTERFACE_NAME;
use sluicegate_host::config::{
    DestinationConfig, PolicyConfig, PortConfig, PortProtocol, RuleConfig,
};
use sluicegate_host::netns::Interface;
use sluicegate_host::{
    Direction, Events, Group, NetworkConfig, NetworkEvent, Permission, SmoltcpNetwork,
};

use super::failure::{self, Failure};
use super::guest_env::Withheld;
use super::inside::Inside;
use super::link::{self, Described, LinkArgs};
use super::online::Online;
use live::Live;
use servers::Servers;

/// The guest's part, from first to last step, takes this long at most.
const DURATION_MAX: Duration = Duration::from_secs(14);
/// How long each direction of the throughput step sends.
const THROUGHPUT_MS: u64 = 2000;
/// A line of the guest's report is cut to this many bytes.
const LINE_BYTES_MAX: u64 = 4096;

/// Show a guest going online, step by step, in under 15 seconds and without the internet
///
/// Starts small servers on this host's loopback and a guest in a network namespace of its own,
/// which reaches them through the engine. Works as root, or as anyone where unprivileged user
/// namespaces are allowed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if every step worked.

A guest of your own comes by one of these:
  sluicegate run       a command, in a network namespace of its own
  sluicegate attach    a network namespace that exists
  sluicegate serve     a machine of QEMU, libkrun or vfkit: its card is a Unix socket
  sluicegate vm        a directory, as a microVM of msb_krun
  the library          a VMM that is built on msb_krun, or any card (SmoltcpNetwork, GuestLink)
  sluicegate-core      a firmware, on either side of the link (no_std)

Examples:
  sluicegate demo
  sluicegate demo --mtu 65520")]
pub(crate) struct DemoArgs {
    /// MTU of the guest's interface
    #[arg(long, value_name = "N", default_value_t = 1500)]
    mtu: u16,
}

/// What the guest says, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// Bytes that the running step has moved since it began.
    Moved { step: String, bytes: u64, micros: u64 },
    /// The published port may be called.
    Listens,
    /// The policy may change.
    IsConnected,
    /// A step worked.
    Done { step: String, micros: u64, detail: String },
    /// A step did not work; the guest ends.
    Failed { step: String, why: String },
}

/// Runs the demonstration.
pub(crate) fn run(args: DemoArgs) -> ExitCode {
    failure::exit_code(show(&args))
}

fn show(args: &DemoArgs) -> Result<(), Failure> {
    let began = now();
    say("A guest in its own network namespace goes online; the engine is its only way out.\n")?;
    let servers = Servers::start()?;
    let mut network = SmoltcpNetwork::try_new(config(args.mtu, &servers)?, 0)?;
    let mut live = Live::new(network.control_handle(), servers.ports.http_ipv4);
    let events = network.events();
    let interface = link::interface(INTERFACE_NAME, &network);
    let authority = network.ca_cert_pem().ok_or("nothing is intercepted")?;
    let trust = (String::from_utf8(authority)?, secret::secret()?.placeholder());
    let itinerary = guest::Itinerary::new(&interface, &servers, trust);
    let nothing = File::open("/dev/null")?;
    let command = guest_command(&itinerary)?;
    let withheld = Withheld::default();
    let mut inside =
        Inside::start(&interface, (&command, &[]), &withheld, nothing.as_fd(), Stdio::piped())?;
    let mut tap = inside.take_tap().ok_or("the process inside sent no interface")?;
    LinkArgs::default().prepare(&mut tap);
    let online = Online::start(Described { network, control: None, withheld }, tap, channel().0)?;
    let (capture, writer) = live.record()?;
    let published = online.published_port().ok_or("no port was published")?;
    done("address set-up", began.elapsed(), &addresses(&interface))?;
    let outcome = follow(inside.go()?, published, &mut live);
    let counters = online.metrics().counters();
    // A dead network explains failed steps better than they do.
    online.stop()?;
    outcome?;
    // It ends with the network, if it was not long enough before.
    let _ = writer.join();
    for token in servers.vendor.asked_with() {
        say(&format!("\nThe server of the secret was asked with {token:?}."))?;
    }
    say("\nFlows when the policy changed:")?;
    for flow in &live.flows {
        say(&format!("  {flow}"))?;
    }
    denials(events)?;
    table(&counters)?;
    say(&format!("\nThe guest's first frames are in {}", capture.display()))?;
    Ok(say(&format!("\nAll of it took {:.1} s.", began.elapsed().as_secs_f64()))?)
}

/// A network whose guest reaches this host, but no other place, one name less, and not where clouds
/// keep secrets; one port of it is reached, and one secret is kept from it.
fn config(mtu: u16, servers: &Servers) -> Result<NetworkConfig, Failure> {
    let mut config = NetworkConfig::default();
    config.interface.mtu = Some(mtu);
    config.policy = PolicyConfig::without_rules(Permission::Deny, Permission::Allow);
    let rule = |destination, action| RuleConfig {
        direction: Some(Direction::Egress),
        destination,
        protocols: vec![],
        ports: vec![],
        action,
        strict: None,
    };
    config.policy.rules = vec![
        rule(DestinationConfig::Domain(guest::DENIED_NAME.to_owned()), Permission::Deny),
        rule(DestinationConfig::Group(Group::Metadata), Permission::Deny),
        rule(DestinationConfig::Group(Group::Host), Permission::Allow),
    ];
    config.ports = vec![PortConfig {
        host_port: 0,
        guest_port: guest::GUEST_PORT,
        protocol: PortProtocol::Tcp,
        host_bind: Ipv4Addr::LOCALHOST.into(),
        proxy_protocol: false,
    }];
    config.tls.enabled = true;
    config.tls.intercepted_ports = vec![servers.ports.https];
    config.tls.upstream_ca_cert = vec![servers.vendor.authority().to_owned()];
    config.secrets.secrets = vec![secret::secret()?];
    Ok(config)
}

/// What the engine told of while the guest was online.
fn denials(events: Events) -> io::Result<()> {
    say("\nEvents:")?;
    for event in events {
        match event {
            NetworkEvent::Denied(denied) => say(&format!("  {denied}"))?,
            NetworkEvent::Intercepted(refused) => say(&format!("  {refused}"))?,
            _ => {}
        }
    }
    Ok(())
}

/// Prints a line; a pipe that was closed is an error, not a panic.
fn say(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

fn guest_command(itinerary: &guest::Itinerary) -> Result<Vec<OsString>, Failure> {
    let itinerary = serde_json::to_string(itinerary)?;
    Ok(vec!["/proc/self/exe".into(), "_demo-guest".into(), itinerary.into()])
}

fn addresses(interface: &Interface) -> String {
    let mac = interface.mac.map(|byte| format!("{byte:02x}")).join(":");
    format!("{mac}, {}/30, {}/64, MTU {}", interface.ipv4, interface.ipv6, interface.mtu)
}

/// Shows what the guest reports until it has ended.
fn follow(mut child: Child, published: SocketAddr, live: &mut Live) -> Result<(), Failure> {
    let output = child.stdout.take().ok_or("the guest has no standard output")?;
    let (tell, reports) = channel();
    std::thread::spawn(move || relay(output, &tell));
    let outcome = show_reports(&reports, published, live);
    if outcome.is_err() {
        // It may have ended by itself.
        let _ = child.kill();
    }
    let status = child.wait()?;
    outcome?;
    if status.success() { Ok(()) } else { Err(format!("the guest ended with {status}").into()) }
}

fn relay(output: impl Read, tell: &Sender<Report>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = String::new();
        match output.by_ref().take(LINE_BYTES_MAX).read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if let Ok(report) = serde_json::from_str(&line)
            && tell.send(report).is_err()
        {
            return;
        }
    }
}

fn show_reports(
    reports: &Receiver<Report>,
    published: SocketAddr,
    live: &mut Live,
) -> Result<(), Failure> {
    let end = now() + DURATION_MAX;
    let mut bar: Option<ProgressBar> = None;
    loop {
        match reports.recv_timeout(end.saturating_duration_since(now())) {
            Ok(Report::Moved { step, bytes, micros }) => {
                move_bar(bar.get_or_insert_with(|| new_bar(&step)), bytes, micros);
            }
            Ok(Report::Listens) => {
                // The guest says how it went.
                std::thread::spawn(move || call(published));
            }
            Ok(Report::IsConnected) => live.change()?,
            Ok(Report::Done { step, micros, detail }) => {
                clear(&mut bar);
                done(&step, Duration::from_micros(micros), &detail)?;
            }
            Ok(Report::Failed { step, why }) => {
                clear(&mut bar);
                say(&format!("✗ {step:<18} {:>9}   {why}", ""))?;
                return Err(format!("the step \"{step}\" failed").into());
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                clear(&mut bar);
                return Err(format!("the guest was not done in {DURATION_MAX:?}").into());
            }
        }
    }
}

/// Calls the guest from outside, and waits for its answer.
fn call(published: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(published)?;
    stream.set_read_timeout(Some(DURATION_MAX))?;
    stream.write_all(guest::CALL)?;
    stream.read_to_end(&mut Vec::new()).map(drop)
}

fn done(step: &str, took: Duration, detail: &str) -> io::Result<()> {
    say(&format!("✓ {step:<18} {:>9}   {detail}", readable(took)))
}

fn readable(took: Duration) -> String {
    let micros = took.as_micros();
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", took.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

/// A bar for `step`, invisible where the standard output is no terminal.
fn new_bar(step: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(THROUGHPUT_MS), ProgressDrawTarget::stdout());
    // The template is a constant that works; a wrong one would leave the default style.
    if let Ok(style) = ProgressStyle::with_template("  {prefix:18} [{bar:30}] {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_prefix(step.to_owned())
}

fn move_bar(bar: &ProgressBar, bytes: u64, micros: u64) {
    bar.set_position((micros / 1000).min(THROUGHPUT_MS));
    bar.set_message(format!("{}, {}", HumanBytes(bytes), gigabits(bytes, micros)));
}

fn clear(bar: &mut Option<ProgressBar>) {
    if let Some(bar) = bar.take() {
        bar.finish_and_clear();
    }
}

/// A rate in words.
fn gigabits(bytes: u64, micros: u64) -> String {
    let hundredths = bytes.saturating_mul(8) / (micros.max(1) * 10);
    format!("{}.{:02} Gbit/s", hundredths / 100, hundredths % 100)
}

/// The counters that counted something.
fn table(counters: &[(&'static str, u64)]) -> io::Result<()> {
    say("\nCounters (those at 0 left out):")?;
    for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
        say(&format!("  {name:<32} {value:>14}"))?;
    }
    Ok(())
}

/// The demonstration's stopwatch.
#[expect(clippy::disallowed_methods, reason = "times what it shows; no engine runs on this clock")]
fn now() -> Instant {
    Instant::now()
}
