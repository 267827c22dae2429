//! The ports of the server.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, TcpListener},
};

use super::DevServerError;

/// The ports of a server. They are different, and were free when they were chosen.
///
/// The server picks further ports for its own services at random among the free ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) server: u16,
    pub(super) ui: Option<u16>,
    pub(super) metrics: Option<u16>,
}

impl Ports {
    /// Checks the given ports. 0 stands for any free port.
    pub(super) fn choose(
        server: u16,
        ui: Option<u16>,
        metrics: Option<u16>,
    ) -> Result<Self, DevServerError> {
        // All listeners live until the end, so that no port is chosen twice.
        let server = bind("dev server", server)?;
        let ui = ui.map(|port| bind("web UI", port)).transpose()?;
        let metrics = metrics.map(|port| bind("metrics", port)).transpose()?;
        let number = |port: &Option<Claim>| port.as_ref().map(|claim| claim.port);
        Ok(Self {
            server: server.port,
            ui: number(&ui),
            metrics: number(&metrics),
        })
    }
}

struct Claim {
    port: u16,
    _listener: TcpListener,
}

fn bind(service: &'static str, port: u16) -> Result<Claim, DevServerError> {
    let listen = || -> io::Result<Claim> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        if port == 0 {
            keep_from_reuse(&listener)?;
        }
        Ok(Claim {
            port: listener.local_addr()?.port(),
            _listener: listener,
        })
    };
    listen().map_err(|source| match source.kind() {
        ErrorKind::AddrInUse => DevServerError::PortInUse { service, port },
        _ => DevServerError::PortNotUsable {
            service,
            port,
            source,
        },
    })
}

/// Keeps Linux, which picks free ports at random, from giving this port to another process before the server starts. A
/// connection that is closed from the listening side stays in `TIME_WAIT` for a minute. During that time the port can be bound by
/// its number, but is not picked.
fn keep_from_reuse(listener: &TcpListener) -> io::Result<()> {
    if cfg!(target_os = "linux") {
        let _client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let (accepted, _) = listener.accept()?;
        drop(accepted);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let ports = Ports::choose(0, Some(0), Some(0)).unwrap();
        let all = [ports.server, ports.ui.unwrap(), ports.metrics.unwrap()];
        assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
        for port in all {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_port_in_use_is_refused_with_its_number_and_service() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = taken.local_addr().unwrap().port();
        assert!(matches!(
            Ports::choose(number, None, None),
            Err(DevServerError::PortInUse { service: "dev server", port }) if port == number
        ));
        assert!(matches!(
            Ports::choose(0, None, Some(number)),
            Err(DevServerError::PortInUse { service: "metrics", port }) if port == number
        ));
    }

    #[test]
    fn the_same_port_for_two_services_is_refused() {
        let free = Ports::choose(0, None, None).unwrap().server;
        assert!(matches!(
            Ports::choose(free, Some(free), None),
            Err(DevServerError::PortInUse {
                service: "web UI",
                ..
            })
        ));
    }
}
