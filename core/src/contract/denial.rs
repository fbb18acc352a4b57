//! What is told of a flow that policy denied.

use core::net::SocketAddr;

use super::{Direction, Group, Protocol};

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum By {
    /// The rule of this index, from 0.
    Rule(u16),
    /// The default of the direction.
    Default,
    /// The platform, whose policy a tenant's cannot broaden.
    Platform,
    /// The gateway, whatever policy says.
    Gateway,
}

impl By {
    /// The name used in logs and lists.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rule(_) => "rule",
            Self::Default => "default",
            Self::Platform => "platform",
            Self::Gateway => "gateway",
        }
    }

    /// The rule's index, where it is one.
    #[must_use]
    pub const fn rule(self) -> Option<u16> {
        match self {
            Self::Rule(index) => Some(index),
            Self::Default | Self::Platform | Self::Gateway => None,
        }
    }
}

/// In words, to stand behind "by".
impl core::fmt::Display for By {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Rule(index) => write!(f, "rule {index}"),
            Self::Default => f.write_str("default"),
            Self::Platform => f.write_str("the platform"),
            Self::Gateway => f.write_str("the gateway"),
        }
    }
}

/// Why a flow was denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum DenialReason {
    /// Policy denies it.
    Policy,
    /// Policy would allow it by a name, or not deny it, and the guest said none, or none that can
    /// be read.
    NameUnknown,
    /// Names are asked there where nobody can judge them.
    OtherNames,
    /// QUIC, at a port where TLS is intercepted.
    Quic,
    /// A name that leads to an address which it must not lead to.
    Rebinding,
}

impl DenialReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 5] =
        [Self::Policy, Self::NameUnknown, Self::OtherNames, Self::Quic, Self::Rebinding];

    /// The name used in logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::NameUnknown => "name_unknown",
            Self::OtherNames => "other_names",
            Self::Quic => "quic",
            Self::Rebinding => "rebinding",
        }
    }
}

/// A flow of the guest, or to it, that policy denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Denial {
    /// Who wanted to open it: the guest (`Egress`), or somebody outside.
    pub direction: Direction,
    /// The protocol.
    pub protocol: Protocol,
    /// The guest's port; of a ping its identifier.
    pub guest_port: u16,
    /// Where it would have gone (without a port: 0), or who wanted to come.
    pub destination: SocketAddr,
    /// What the destination is, as a rule that allows sees it.
    pub group: Option<Group>,
    /// What denied it.
    pub by: By,
    /// Why.
    pub reason: DenialReason,
    /// Denials since the last that was told, which were too many to be told.
    pub left_out: u64,
}
