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
use super::failure::{self, ASKED_WRONGLY, Failure, complain, warn};

mod record;
mod table;

pub(super) use table::{Flows, HEAD, Row, UP};

/// Ask or change a network that runs
///
/// The network is one that was started with `--control PATH`. Changes hold at once: what a new
/// policy forbids is reset, and what it allows does not notice.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Exit status: 0 if it was done, 1 if not, 2 if the options are wrong.

Examples:
  sluicegate run --control /tmp/net.ctl --config network.json -- bash
  export SLUICEGATE_CONTROL=/tmp/net.ctl
  sluicegate ctl flows
  sluicegate ctl config > now.json && $EDITOR now.json && sluicegate ctl put now.json
  sluicegate ctl rules                        # which of them decide, and how often
  sluicegate ctl end 4294967297
  sluicegate ctl snapshot > guest.snapshot    # then: attach --restore guest.snapshot
  sluicegate ctl capture - | wireshark -k -i -
  sluicegate ctl capture guest.pcapng --size-max 100000000 # as tcpdump -C, two files at most
  sluicegate ctl events | jq .destination
  curl --unix-socket /tmp/net.ctl http://localhost/v1/metrics     # the same without this program")]
pub(crate) struct CtlArgs {
    /// The control socket of the network
    #[arg(long, value_name = "PATH", env = "SLUICEGATE_CONTROL", global = true)]
    control: Option<PathBuf>,
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
    /// List the rules that hold, and how often each decided: once a flow, a name or a caller
    Rules {
        /// As JSON, not as a table
        #[arg(long)]
        json: bool,
    },
    /// End flows by their numbers
    End {
        /// As `ctl flows` shows them
        #[arg(required = true, value_parser = flow_number)]
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

/// Reads the number of a flow.
fn flow_number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "not the number of a flow, as `sluicegate ctl flows` shows it")
}

/// Does what is asked.
pub(crate) fn run(args: &CtlArgs) -> ExitCode {
    let Some(control) = &args.control else {
        // What stands before or behind the command's name can't be required by clap.
        warn(
            "which network? --control PATH (or SLUICEGATE_CONTROL) names the socket that it was \
             started with",
        );
        return ExitCode::from(ASKED_WRONGLY);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(obey(control, &args.command)));
    failure::exit_code(done)
}

async fn obey(control: &Path, command: &CtlCommand) -> Result<(), Failure> {
    match command {
        CtlCommand::Config { number: false } => print(get(control, "config").await?).await,
        CtlCommand::Config { number: true } => {
            let answer = get(control, "config").await?;
            let tag = answer.headers().get(ETAG).and_then(|tag| tag.to_str().ok());
            let number = tag.ok_or("the network did not say it")?.trim_matches('"');
            Ok(writeln!(std::io::stdout(), "{number}")?)
        }
        CtlCommand::Put { file, if_version } => put(control, file, *if_version).await,
        CtlCommand::Flows { json: true } => print(get(control, "flows").await?).await,
        CtlCommand::Flows { json: false } => {
            let flows = flows(control).await?;
            Ok(std::io::stdout().write_all(table::flows(&flows).as_bytes())?)
        }
        CtlCommand::Rules { json: true } => print(get(control, "rules").await?).await,
        CtlCommand::Rules { json: false } => {
            let answer = get(control, "rules").await?.into_body().collect().await?.to_bytes();
            Ok(std::io::stdout().write_all(table::rules(&answer)?.as_bytes())?)
        }
        CtlCommand::End { ids } => end(control, ids).await,
        CtlCommand::Snapshot => print(get(control, "snapshot").await?).await,
        CtlCommand::Ports => print(get(control, "ports").await?).await,
        CtlCommand::Capture { file, size_max } => {
            let frames = ask(control, Method::POST, "capture", (None, vec![])).await?;
            record::write(frames, file, *size_max).await
        }
        CtlCommand::Metrics => print(get(control, "metrics").await?).await,
        CtlCommand::Events => print(get(control, "events").await?).await,
    }
}

/// The flows of the network behind `control`.
pub(super) async fn flows(control: &Path) -> Result<Flows, Failure> {
    let answer = ask(control, Method::GET, "flows", (None, vec![])).await?;
    Flows::read(&answer.into_body().collect().await?.to_bytes())
}

async fn get(control: &Path, what: &str) -> Result<Response<Incoming>, Failure> {
    ask(control, Method::GET, what, (None, vec![])).await
}

/// Ends the flows `ids`. One that has ended by itself meanwhile keeps no other from its end.
async fn end(control: &Path, ids: &[u64]) -> Result<(), Failure> {
    let mut failed = None;
    for id in ids {
        let ended = ask(control, Method::DELETE, &format!("flows/{id}"), (None, vec![])).await;
        if let Err(failure) = ended
            && let Some(before) = failed.replace(failure)
        {
            complain(before.as_ref());
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn put(control: &Path, file: &Path, expected: Option<u64>) -> Result<(), Failure> {
    let name = config_file::name_of(file).display();
    let text =
        std::fs::read(config_file::path_of(file)).map_err(|error| format!("{name}: {error}"))?;
    let tag = expected.map(|version| format!("\"{version}\""));
    let response = send(control, Method::PUT, "config", (tag, text)).await?;
    match refusal(response).await? {
        Ok(_) => Ok(()),
        Err(problem) => Err(format!("{name}: {problem}").into()),
    }
}

/// Sends one request; an answer that is no success is an error in its words.
async fn ask(
    control: &Path,
    method: Method,
    what: &str,
    sent: (Option<String>, Vec<u8>),
) -> Result<Response<Incoming>, Failure> {
    let response = send(control, method, what, sent).await?;
    Ok(refusal(response).await??)
}

/// Sends one request, and returns whatever is answered.
async fn send(
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
    Ok(sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?)
}

/// `response` if it is a success; else what it says is the matter.
async fn refusal(
    response: Response<Incoming>,
) -> Result<Result<Response<Incoming>, String>, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(Ok(response));
    }
    let text = response.into_body().collect().await?.to_bytes();
    Ok(Err(problem(status, &text)))
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
