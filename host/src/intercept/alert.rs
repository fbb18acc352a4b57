//! What a guest is told of a server that could not be spoken to, in the words of TLS (RFC 8446 6).

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// A fatal alert, as a record of its own before any key is agreed on.
pub(super) fn record(description: AlertDescription) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    [ALERT, 3, 3, 0, 2, FATAL, description.into()]
}

/// What the failure of a handshake with a server is to the guest.
pub(super) fn of(error: &io::Error) -> AlertDescription {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        // It went away, or was silent for too long.
        return AlertDescription::InternalError;
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "of rustls' errors few have an alert")]
    match error {
        Error::AlertReceived(description) => *description,
        Error::InvalidCertificate(problem) => of_certificate(problem),
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        _ => AlertDescription::InternalError,
    }
}

fn of_certificate(problem: &CertificateError) -> AlertDescription {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
    match problem {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => AlertDescription::CertificateExpired,
        CertificateError::UnknownIssuer => AlertDescription::UnknownCA,
        CertificateError::Revoked => AlertDescription::CertificateRevoked,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            AlertDescription::CertificateUnknown
        }
        _ => AlertDescription::BadCertificate,
    }
}
