//! Asks a server of HTTPS all that RFC 9113 has cases for (httpwg, which is h2spec in Rust), each
//! on a connection of its own, and says what came of each.
//!
//! `cargo run --manifest-path tests/real/http2/Cargo.toml NAME PORT AUTHORITY.pem`

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use httpwg::rfc9113::*;
use httpwg::{Config, Conn};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

/// How long a case waits for a frame.
const FRAME_MAX: Duration = Duration::from_secs(1);
/// How long a case may take.
const CASE_MAX: Duration = Duration::from_secs(20);

type Outcome = Result<(), Box<dyn core::error::Error>>;
type Case = fn(Conn<TcpStream>) -> Pin<Box<dyn Future<Output = eyre::Result<()>>>>;

macro_rules! cases {
    ($($section:ident { $($case:ident),* $(,)? })*) => {
        &[$($((
            concat!(stringify!($section), "::", stringify!($case)),
            |conn| Box::pin($section::$case(conn)),
        )),*),*]
    };
}

/// All of them, by the section of the RFC that they are about.
const CASES: &[(&str, Case)] = cases! {
    _3_starting_http2 {
        sends_client_connection_preface,
        sends_invalid_connection_preface,
    }
    _4_http_frames {
        sends_frame_with_unknown_type,
        sends_frame_with_unused_flags,
        sends_frame_with_reserved_bit_set,
        data_frame_with_max_length,
        frame_exceeding_max_size,
        large_headers_frame_exceeding_max_size,
        invalid_header_block_fragment,
        priority_frame_while_sending_headers,
        headers_frame_to_another_stream,
    }
    _5_streams_and_multiplexing {
        idle_sends_data_frame,
        idle_sends_rst_stream_frame,
        idle_sends_window_update_frame,
        idle_sends_continuation_frame,
        half_closed_remote_sends_data_frame,
        half_closed_remote_sends_headers_frame,
        half_closed_remote_sends_continuation_frame,
        closed_sends_data_frame_after_rst_stream,
        closed_sends_headers_frame_after_rst_stream,
        closed_sends_continuation_frame_after_rst_stream,
        closed_sends_data_frame,
        closed_sends_headers_frame,
        closed_sends_continuation_frame,
        sends_even_numbered_stream_identifier,
        sends_smaller_stream_identifier,
        exceeds_concurrent_stream_limit,
        invalid_ping_frame_for_connection_close,
        test_invalid_ping_frame_for_goaway,
        unknown_extension_frame_in_header_block,
    }
    _6_frame_definitions {
        sends_data_frame_with_zero_stream_id,
        sends_data_frame_on_invalid_stream_state,
        sends_data_frame_with_invalid_pad_length,
        sends_headers_frame_with_zero_stream_id,
        sends_headers_frame_with_invalid_pad_length,
        sends_priority_frame_with_zero_stream_id,
        sends_priority_frame_with_invalid_length,
        sends_rst_stream_frame_with_zero_stream_id,
        sends_rst_stream_frame_on_idle_stream,
        sends_rst_stream_frame_with_invalid_length,
        sends_settings_frame_with_ack_and_payload,
        sends_settings_frame_with_non_zero_stream_id,
        sends_settings_frame_with_invalid_length,
        sends_settings_enable_push_with_invalid_value,
        sends_settings_initial_window_size_with_invalid_value,
        sends_settings_max_frame_size_with_invalid_value_below_initial,
        sends_settings_max_frame_size_with_invalid_value_above_max,
        sends_settings_frame_with_unknown_identifier,
        sends_multiple_values_of_settings_initial_window_size,
        sends_settings_frame_without_ack_flag,
        sends_ping_frame,
        sends_ping_frame_with_ack,
        sends_ping_frame_with_non_zero_stream_id,
        sends_ping_frame_with_invalid_length,
        sends_goaway_frame_with_non_zero_stream_id,
        sends_window_update_frame_with_zero_increment,
        sends_window_update_frame_with_zero_increment_on_stream,
        sends_window_update_frame_with_invalid_length,
        sends_settings_frame_to_set_initial_window_size_to_1_and_sends_headers_frame,
        sends_multiple_window_update_frames_increasing_flow_control_window_above_max,
        sends_multiple_window_update_frames_increasing_flow_control_window_above_max_on_stream,
        changes_settings_initial_window_size_after_sending_headers_frame,
        sends_settings_frame_for_window_size_to_be_negative,
        sends_settings_initial_window_size_with_exceeded_max_window_size_value,
        sends_multiple_continuation_frames_preceded_by_headers_frame,
        sends_continuation_frame_followed_by_non_continuation_frame,
        sends_continuation_frame_with_zero_stream_id,
        sends_continuation_frame_preceded_by_headers_frame_with_end_headers_flag,
        sends_continuation_frame_preceded_by_continuation_frame_with_end_headers_flag,
        sends_continuation_frame_preceded_by_data_frame,
    }
    _7_error_codes {
        sends_goaway_frame_with_unknown_error_code,
        sends_rst_stream_frame_with_unknown_error_code,
    }
    _8_expressing_http_semantics_in_http2 {
        sends_second_headers_frame_without_end_stream,
        sends_headers_frame_with_incorrect_content_length_single_data_frame,
        sends_headers_frame_with_incorrect_content_length_multiple_data_frames,
        sends_headers_frame_with_uppercase_field_name,
        sends_headers_frame_with_space_in_field_name,
        sends_headers_frame_with_non_visible_ascii,
        sends_headers_frame_with_del_character,
        sends_headers_frame_with_non_ascii_character,
        sends_headers_frame_with_colon_in_field_name,
        sends_headers_frame_with_lf_in_field_value,
        sends_headers_frame_with_cr_in_field_value,
        sends_headers_frame_with_nul_in_field_value,
        sends_headers_frame_with_leading_space_in_field_value,
        sends_headers_frame_with_trailing_tab_in_field_value,
        sends_headers_frame_with_connection_header,
        sends_headers_frame_with_proxy_connection_header,
        sends_headers_frame_with_keep_alive_header,
        sends_headers_frame_with_transfer_encoding_header,
        sends_headers_frame_with_upgrade_header,
        sends_headers_frame_with_te_trailers,
        sends_headers_frame_with_te_not_trailers,
        sends_headers_frame_with_response_pseudo_header,
        sends_headers_frame_with_pseudo_header_in_trailer,
        sends_headers_frame_with_duplicate_pseudo_headers,
        sends_headers_frame_with_mismatched_host_authority,
        sends_headers_frame_with_empty_path_component,
        sends_headers_frame_without_method,
        sends_headers_frame_without_scheme,
        sends_headers_frame_without_path,
        sends_headers_frame_without_status,
        client_sends_push_promise_frame,
        sends_connect_with_scheme,
        sends_connect_with_path,
        sends_connect_without_authority,
        sends_headers_frame_with_pseudo_headers_after_regular_headers,
    }
};

/// A connection in the clear that is `name`'s inside TLS.
async fn connect(tls: &TlsConnector, name: &str, port: u16) -> std::io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = TcpStream::connect((name, port)).await?;
    let wanted = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
    let mut server = tls.connect(wanted, server).await?;
    if server.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(std::io::Error::other("the server did not choose h2"));
    }
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (mut inside, _) = listener.accept().await?;
    tokio::task::spawn_local(async move {
        // However it ends, the case sees it.
        let _ = tokio::io::copy_bidirectional(&mut inside, &mut server).await;
    });
    Ok(client)
}

async fn run(case: Case, tls: &TlsConnector, config: &Rc<Config>) -> Outcome {
    let stream = connect(tls, &config.host, config.port).await?;
    let conn = Conn::new(Rc::clone(config), stream);
    let ended = tokio::time::timeout(CASE_MAX, tokio::task::spawn_local(case(conn))).await;
    Ok(ended???)
}

/// A client's side that believes `authority`, a file.
fn tls(authority: &str) -> Result<TlsConnector, Box<dyn core::error::Error>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authority)? {
        // There may be some in a store of many that are too old to be read.
        let _ = roots.add(certificate?);
    }
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots)
    .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, authority] = arguments.as_slice() else {
        return Err("NAME PORT AUTHORITY.pem".into());
    };
    buffet::bufpool::initialize_allocator()?;
    let tls = tls(authority)?;
    let config = Rc::new(Config {
        host: host.clone(),
        port: port.parse()?,
        tls: true,
        timeout: FRAME_MAX,
        ..Config::default()
    });
    let mut failed = 0;
    for (name, case) in CASES {
        let outcome = LocalSet::new().run_until(run(*case, &tls, &config)).await;
        match outcome {
            Ok(()) => println!("ok {name}"),
            Err(error) => {
                failed += 1;
                println!("FAILED {name}: {}", error.to_string().lines().next().unwrap_or(""));
            }
        }
    }
    println!("{} of {} as it should be", CASES.len() - failed, CASES.len());
    Ok(())
}
