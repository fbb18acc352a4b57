//! `sluicegate ctl`: asks and changes a network that runs elsewhere. Owns the requests and how
//! answers are shown; what they mean is `control/routes.rs`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ETAG, HOST, IF_MATCH};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::config_file;
use super::failure::{self, Failure};

mod record;
mod table;

pub(super) use table::{Flows, HEAD, Row, UP};

/// Ask or change a network that runs
///
/// The network is one that was started with `--control PATH`. Changes hold at once: what a new
/// policy forbids is reset, and what it allows does not notice.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if it was done, 1 if not.

Examples:
  sluicegate run --control /tmp/net.ctl --config network.json -- bash
  export SLUICEGATE_CONTROL=/tmp/net.ctl
  sluicegate ctl flows
  sluicegate ctl config > now.json && $EDITOR now.json && sluicegate ctl put now.json
  sluicegate ctl end 4294967297
  sluicegate ctl snapshot > guest.snapshot    # then: attach --restore guest.snapshot
  sluicegate ctl capture - | wireshark -k -i -
  sluicegate ctl capture guest.pcapng --size-max 100000000 # as tcpdump -C, two files at most
  sluicegate ctl events | jq .destination
  curl --unix-socket /tmp/net.ctl http://localhost/v1/metrics     # the same without this program")]
pub(crate) struct CtlArgs {
    /// The control socket of the network
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_CONTROL")]
    control: PathBuf,
    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Debug, clap::Subcommand)]
enum CtlCommand {
    /// Print the configuration that holds, without the values of secrets
    Config {
        /// Print its number in its place: for `ctl put --if-version`
        #[arg(long)]
        number: bool,
    },
    /// Let another configuration hold: all of it, or nothing
    Put {
        /// The configuration, as JSON; - for the standard input
        file: PathBuf,
        /// Only in place of the configuration with this number (`ctl config --number`)
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
    /// List the flows that there are
    Flows {
        /// As JSON, not as a table
        #[arg(long)]
        json: bool,
    },
    /// End flows by their numbers
    End {
        /// As `ctl flows` shows them
        #[arg(required = true)]
        ids: Vec<u64>,
    },
    /// List the published ports: where this host really listens
    Ports,
    /// Print what the guest knows of the network, as JSON: for `--restore` of another
    Snapshot,
    /// Print the counters, as OpenMetrics text
    Metrics,
    /// Capture every frame of the guest's link, as pcapng, until this is interrupted
    ///
    /// A frame that went no further says why in its comment. A network makes one capture at a time.
    Capture {
        /// Where to; - for the standard output
        file: PathBuf,
        /// Go on in FILE anew when it has half as many bytes, and keep the one before as FILE.1
        #[arg(long, value_name = "BYTES")]
        #[arg(value_parser = clap::value_parser!(u64).range(1_000_000..))]
        size_max: Option<u64>,
    },
    /// Print what is denied from now on, a line of JSON each, until the network ends
    Events,
}

/// Does what is asked.
pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(obey(args)));
    failure::exit_code(done)
}

async fn obey(args: &CtlArgs) -> Result<(), Failure> {
    match &args.command {
        CtlCommand::Config { number: false } => print(get(args, "config").await?).await,
        CtlCommand::Config { number: true } => {
            let answer = get(args, "config").await?;
            let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
            let number = tag.ok_or("the network did not say it")?.trim_matches('"');
            Ok(writeln!(std::io::stdout(), "{number}")?)
        }
        CtlCommand::Put { file, if_version } => put(args, file, *if_version).await,
        CtlCommand::Flows { json: true } => print(get(args, "flows").await?).await,
        CtlCommand::Flows { json: false } => {
            let flows = flows(&args.control).await?;
            Ok(std::io::stdout().write_all(table::flows(&flows).as_bytes())?)
        }
        CtlCommand::End { ids } => {
            for id in ids {
                ask(&args.control, Method::DELETE, &format!("flows/{id}"), (None, vec![])).await?;
            }
            Ok(())
        }
        CtlCommand::Snapshot => print(get(args, "snapshot").await?).await,
        CtlCommand::Ports => print(get(args, "ports").await?).await,
        CtlCommand::Capture { file, size_max } => {
            let frames = ask(&args.control, Method::POST, "capture", (None, vec![])).await?;
            record::write(frames, file, *size_max).await
        }
        CtlCommand::Metrics => print(get(args, "metrics").await?).await,
        CtlCommand::Events => print(get(args, "events").await?).await,
    }
}

/// The flows of the network behind `control`.
pub(super) async fn flows(control: &Path) -> Result<Flows, Failure> {
    let answer = ask(control, Method::GET, "flows", (None, vec![])).await?;
    Flows::read(&answer.into_body().collect().await?.to_bytes())
}

async fn get(args: &CtlArgs, what: &str) -> Result<Response<Incoming>, Failure> {
    ask(&args.control, Method::GET, what, (None, vec![])).await
}

async fn put(args: &CtlArgs, file: &Path, expected: Option<u64>) -> Result<(), Failure> {
    let text = std::fs::read(config_file::path_of(file))
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let tag = expected.map(|version| format!("\"{version}\""));
    ask(&args.control, Method::PUT, "config", (tag, text)).await?;
    Ok(())
}

/// Sends one request; an answer that is no success is an error in its words.
async fn ask(
    control: &Path,
    method: Method,
    what: &str,
    (tag, body): (Option<String>, Vec<u8>),
) -> Result<Response<Incoming>, Failure> {
    let path = control.display();
    let stream = UnixStream::connect(control).await.map_err(|error| {
        format!("--control {path}: {error}; does a network run that was started with it?")
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request =
        Request::builder().method(method).uri(format!("/v1/{what}")).header(HOST, "localhost");
    if let Some(tag) = tag {
        request = request.header(IF_MATCH, tag);
    }
    let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let text = response.into_body().collect().await?.to_bytes();
    Err(problem(status, &text).into())
}

/// What an answer says that is no success.
fn problem(status: StatusCode, text: &[u8]) -> String {
    let said = serde_json::from_slice::<serde_json::Value>(text).ok();
    let said = said.as_ref().and_then(|said| said.get("error")?.as_str());
    said.map_or_else(|| format!("the network answers {status}"), str::to_owned)
}

/// Prints the body: one that has no end as it comes, another once it is whole, as the network does
/// not wait for who reads what is printed.
async fn print(response: Response<Incoming>) -> Result<(), Failure> {
    let mut body = response.into_body();
    if body.size_hint().exact().is_some() {
        let whole = body.collect().await?.to_bytes();
        return Ok(std::io::stdout().write_all(&whole)?);
    }
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            let mut out = std::io::stdout();
            out.write_all(&bytes)?;
            out.flush()?;
        }
    }
    Ok(())
}
