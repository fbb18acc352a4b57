//! What the control socket is asked, and what it answers: version 1 of the interface.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/config` | the configuration that holds, without values of secrets; ETag: its number |
//! | `PUT /v1/config` | another holds from now on, as a whole; If-Match: only in place of that |
//! | `GET /v1/flows` | every flow |
//! | `DELETE /v1/flows/ID` | it is ended |
//! | `GET /v1/snapshot` | what the guest knows of the network, for another to take its place |
//! | `GET /v1/rules` | every rule of the policy, and how often it decided |
//! | `GET /v1/ports` | the published ports |
//! | `GET /v1/metrics` | the counters, as OpenMetrics text |
//! | `POST /v1/capture` | every frame of the guest's link from now on, as pcapng |
//! | `GET /v1/events` | denials and the like from now on, a line of JSON each |
//!
//! What went wrong is `{"error": "..."}`.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, ETAG, HeaderValue, IF_MATCH};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use sluicegate_host::{
    By, Capture, ControlHandle, Error, Events, FlowRow, LoadError, NetworkConfig,
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::ENDLESS_MAX;
use super::document::{Document, applied};
use crate::cli::failure::in_full;
use crate::cli::log;

/// Bytes of the longest configuration, as of a file's.
const CONFIG_BYTES_MAX: usize = 1024 * 1024;

/// How long a peer may take to send it.
const BODY_MAX: Duration = Duration::from_secs(10);

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const PCAPNG: &str = "application/x-pcapng";
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

type Overlay = Box<dyn Fn(NetworkConfig) -> NetworkConfig + Send + Sync>;

/// What requests are about.
pub(in crate::cli) struct Desk {
    control: ControlHandle,
    /// What the command line makes of a configuration.
    overlay: Overlay,
    document: Arc<Mutex<Document>>,
    /// How many more may be told of what has no end.
    endless: Arc<Semaphore>,
}

impl Desk {
    pub(in crate::cli) fn new(
        control: ControlHandle,
        overlay: impl Fn(NetworkConfig) -> NetworkConfig + Send + Sync + 'static,
        document: Document,
    ) -> Self {
        Self {
            control,
            overlay: Box::new(overlay),
            document: Arc::new(Mutex::new(document)),
            endless: Arc::new(Semaphore::new(ENDLESS_MAX)),
        }
    }

    /// The place of one more.
    fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.endless).try_acquire_owned().map_err(|_| {
            let text = format!("{ENDLESS_MAX} are told of events, or of a capture, already");
            Refused(StatusCode::SERVICE_UNAVAILABLE, text)
        })
    }
}

/// What became of a request that failed.
struct Refused(StatusCode, String);

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Config(_) | Error::Load(_) | Error::Authority(_) => StatusCode::BAD_REQUEST,
            Error::Publish { .. } => StatusCode::CONFLICT,
            Error::Conflict { .. } => StatusCode::PRECONDITION_FAILED,
            Error::NotRunning | Error::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Error::Slot(_)
            | Error::BackendTaken
            | Error::AlreadyStarted
            | Error::Machine { .. }
            | Error::Bug(_)
            | _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, in_full(&error))
    }
}

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        Self(StatusCode::BAD_REQUEST, in_full(&error))
    }
}

/// Answers `request`.
pub(super) async fn answer(desk: &Desk, request: Request<Incoming>) -> Response<Body> {
    route(desk, request).await.unwrap_or_else(|Refused(status, text)| {
        let mut response = json_body(&json!({ "error": text }));
        *response.status_mut() = status;
        response
    })
}

async fn route(desk: &Desk, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let path = request.uri().path().to_owned();
    let Some(name) = path.strip_prefix("/v1/") else {
        return Err(Refused(StatusCode::NOT_FOUND, format!("{path}: not below /v1/")));
    };
    match (request.method(), name) {
        (&Method::GET, "config") => Ok(show(&*desk.document.lock().await)),
        (&Method::PUT, "config") => replace(desk, request).await,
        (&Method::GET, "flows") => {
            let control = desk.control.clone();
            let flows = wait(move || control.flows()).await?;
            Ok(json_body(&json!({ "flows": flows.iter().map(flow).collect::<Vec<_>>() })))
        }
        (&Method::DELETE, _) if name.starts_with("flows/") => {
            end(desk, name.trim_start_matches("flows/")).await
        }
        (&Method::GET, "snapshot") => {
            let control = desk.control.clone();
            let text = wait(move || control.snapshot()).await?.to_json();
            Ok(body(JSON, Full::from(text + "\n")))
        }
        (&Method::GET, "ports") => Ok(json_body(&ports(&desk.control))),
        (&Method::GET, "rules") => rules(desk).await,
        (&Method::GET, "metrics") => {
            let control = desk.control.clone();
            // Of a network that has ended, or is busy, the counters are told as they are.
            let _ = wait(move || control.measure()).await;
            Ok(body(METRICS, Full::from(desk.control.metrics().open_metrics())))
        }
        (&Method::GET, "events") => Ok(events(desk.place()?, desk.control.events())),
        (&Method::POST, "capture") => {
            let (place, control) = (desk.place()?, desk.control.clone());
            Ok(capture(place, wait(move || control.capture()).await?))
        }
        (_, "config") => Ok(not_allowed("GET, PUT")),
        (_, "flows" | "rules" | "snapshot" | "ports" | "metrics" | "events") => {
            Ok(not_allowed("GET"))
        }
        (_, "capture") => Ok(not_allowed("POST")),
        (_, _) if name.starts_with("flows/") => Ok(not_allowed("DELETE")),
        (_, _) => Err(Refused(StatusCode::NOT_FOUND, format!("{path}: there is no such thing"))),
    }
}

/// Runs `work`, which waits for the driver, where that holds nobody up.
async fn wait<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn body(
    kind: &'static str,
    bytes: impl HttpBody<Data = Bytes, Error = std::convert::Infallible> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(bytes.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json_body(value: &Value) -> Response<Body> {
    body(JSON, Full::from(format!("{value:#}\n")))
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = json_body(&json!({ "error": format!("it takes {methods}") }));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn show(document: &Document) -> Response<Body> {
    let mut response = json_body(&document.text);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{}\"", document.version)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

/// Lets the configuration in `request` hold.
async fn replace(desk: &Desk, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let expected = expected(request.headers())?;
    let text = Limited::new(request.into_body(), CONFIG_BYTES_MAX).collect();
    let text = timeout(BODY_MAX, text).await.map_err(|_| {
        let text = format!("the configuration was not sent within {BODY_MAX:?}");
        Refused(StatusCode::REQUEST_TIMEOUT, text)
    })?;
    let text = text.map_err(|error| {
        let is_long = error.downcast_ref::<LengthLimitError>().is_some();
        let status = if is_long { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        Refused(status, if is_long { "longer than 1 MiB".to_owned() } else { error.to_string() })
    })?;
    let text = text.to_bytes();
    let text = core::str::from_utf8(&text)
        .map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string()))?;
    let config = (desk.overlay)(NetworkConfig::from_json(text)?);
    let written = serde_json::from_str(text)
        .and_then(|written| applied(written, &config))
        .map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string()))?;
    let (control, document) = (desk.control.clone(), Arc::clone(&desk.document));
    // In one piece, whether or not whoever asked still waits: what is shown is what holds.
    let document = wait(move || {
        let mut document = document.blocking_lock();
        *document = Document::new(written, control.replace(config, expected)?);
        Ok(document.clone())
    });
    Ok(show(&document.await?))
}

/// The change that whoever asks has seen, as `If-Match: "3"` says it (RFC 9110 13.1.1).
fn expected(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let Some(tag) = headers.get(IF_MATCH) else { return Ok(None) };
    let number = tag.to_str().ok().and_then(|tag| match tag {
        "*" => Some(None),
        tag => tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok().map(Some),
    });
    number.ok_or_else(|| {
        let text = "If-Match: not an ETag of GET /v1/config, as \"3\", nor *".to_owned();
        Refused(StatusCode::BAD_REQUEST, text)
    })
}

async fn end(desk: &Desk, id: &str) -> Result<Response<Body>, Refused> {
    let none = || Refused(StatusCode::NOT_FOUND, format!("flow {id}: there is none"));
    let number = id.parse().map_err(|_| none())?;
    let control = desk.control.clone();
    if !wait(move || control.end_flow(number)).await? {
        return Err(none());
    }
    let mut response = body(JSON, Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn flow(flow: &FlowRow) -> Value {
    json!({
        "id": flow.id,
        "protocol": flow.protocol.name(),
        "direction": flow.direction.name(),
        "guest": flow.guest,
        "peer": flow.peer,
        "name": flow.name,
        "state": flow.state.name(),
        "by": flow.by.name(),
        "rule": flow.by.rule(),
        "age_ms": u64::try_from(flow.age.as_millis()).unwrap_or(u64::MAX),
        "from_guest_bytes": flow.from_guest_bytes,
        "to_guest_bytes": flow.to_guest_bytes,
    })
}

/// The rules that hold, and what else decides, each with how often it did.
async fn rules(desk: &Desk) -> Result<Response<Body>, Refused> {
    // Nobody changes them meanwhile.
    let _document = desk.document.lock().await;
    let control = desk.control.clone();
    wait(move || control.measure()).await?;
    let (config, _) = desk.control.config();
    let row = |(by, hits): (By, u64)| {
        let rule = by.rule().and_then(|index| config.policy.rules.get(usize::from(index)));
        json!({
            "by": by.name(),
            "rule": by.rule(),
            "does": rule.map(ToString::to_string),
            "hits": hits,
        })
    };
    let rows: Vec<_> = desk.control.metrics().rule_hits().into_iter().map(row).collect();
    Ok(json_body(&json!({ "rules": rows })))
}

fn ports(control: &ControlHandle) -> Value {
    let ports = control.published_ports().into_iter().map(|port| {
        json!({
            "protocol": port.protocol.name(),
            "host": port.host,
            "guest_port": port.guest_port,
        })
    });
    json!({ "ports": ports.collect::<Vec<_>>() })
}

/// Events as they come, until the network ends or nobody listens.
fn events(place: OwnedSemaphorePermit, events: Events) -> Response<Body> {
    let begin = (events, 0, place);
    let lines = futures_util::stream::unfold(begin, |(mut events, lost, place)| async move {
        let event = events.next_async().await?;
        let lost_now = events.lost();
        let line = log::line(&event, log::LogFormat::Json, lost_now - lost);
        Some((Ok(Frame::data(Bytes::from(line))), (events, lost_now, place)))
    });
    body(LINES, StreamBody::new(lines))
}

/// The capture as it is made, until nobody listens.
fn capture(place: OwnedSemaphorePermit, capture: Capture) -> Response<Body> {
    let pieces =
        futures_util::stream::unfold((capture, place), |(mut capture, place)| async move {
            let piece = capture.next_piece().await?;
            Some((Ok(Frame::data(Bytes::from(piece))), (capture, place)))
        });
    body(PCAPNG, StreamBody::new(pieces))
}
