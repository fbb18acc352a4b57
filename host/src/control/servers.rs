//! The name servers of a configuration, ready to be asked.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use sluicegate_core::ConfigError;

use crate::config::{DnsConfig, NameChannel};
use crate::error::Error;
use crate::service::certs::client_of;
use crate::service::dns::{Secure, Server};

/// The name servers of `config`, where they are now.
pub(crate) fn name_servers(config: &DnsConfig) -> Result<Vec<Server>, Error> {
    let mut servers = vec![];
    let mut client = None;
    for server in &config.nameservers {
        let unknown = |_| {
            let expected = "a server whose name this host's resolver knows";
            ConfigError::new("dns.nameservers", server, expected)
        };
        let addresses = server.addresses().map_err(unknown)?;
        let (name, url) = match &server.channel {
            NameChannel::Plain => {
                let plain = |address| Server { address, secure: None };
                servers.extend(addresses.into_iter().map(plain));
                continue;
            }
            NameChannel::Tls { name } => (name, None),
            NameChannel::Https { name, path } => {
                (name, Some(format!("https://{name}:{}{path}", server.port)))
            }
        };
        let trusting = match &client {
            Some(client) => client,
            None => client.insert(client_of(&config.upstream_ca_cert)?),
        };
        let name = ServerName::try_from(name.clone());
        let name = name.map_err(|_| ConfigError::new("dns.nameservers", server, "a server"))?;
        for address in addresses {
            let secure = Secure::new(name.clone(), url.clone(), trusting.clone());
            servers.push(Server { address, secure: Some(Arc::new(secure)) });
        }
    }
    Ok(servers)
}
