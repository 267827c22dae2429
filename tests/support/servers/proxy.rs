//! A TCP proxy in front of a server, with which a test makes the server unavailable and available again.

use std::{io, net::SocketAddr, sync::mpsc, thread};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime,
    sync::watch,
    task::JoinSet,
};

/// The way in which the proxy treats connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Pass,
    /// Connections are accepted and kept open, but carry no data.
    Stall,
    /// Open connections are cut, and new ones are refused.
    Refuse,
}

/// The proxy, which ends with its test.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
}

impl Proxy {
    /// Starts a proxy in front of the server at `target`, which passes all data on.
    pub fn before(target: &str) -> Self {
        let target = target.parse().unwrap();
        let (mode, watched) = watch::channel(Mode::Pass);
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(serve(target, watched, tell));
        });
        let address = told.recv().unwrap();
        Self { address, mode }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn pass(&self) {
        self.mode.send_replace(Mode::Pass);
    }

    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stall);
    }

    /// Cuts open connections too. Returns once new ones are refused.
    pub fn refuse(&self) {
        self.mode.send_replace(Mode::Refuse);
        while std::net::TcpStream::connect(self.address).is_ok() {}
    }
}

fn bound(address: &str) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address.parse().unwrap())?;
    Ok(socket)
}

async fn serve(
    target: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    tell: mpsc::Sender<SocketAddr>,
) {
    // This socket never listens. It keeps the port reserved while connections are refused.
    let reserved = bound("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    let mut tell = Some(tell);
    // An error means the end of the test.
    while mode.wait_for(|mode| *mode != Mode::Refuse).await.is_ok() {
        let listener = bound(&address.to_string()).unwrap().listen(1024).unwrap();
        if let Some(tell) = tell.take() {
            tell.send(address).unwrap();
        }
        let connections = take(&listener, target, mode.clone());
        tokio::select! {
            () = connections => {}
            _ = mode.wait_for(|mode| *mode == Mode::Refuse) => {}
        }
    }
}

/// Owns the connections, so that dropping it cuts them.
async fn take(listener: &TcpListener, target: SocketAddr, mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let mode = mode.clone();
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else {
                return;
            };
            let ((from, to), (back, forth)) = (client.into_split(), server.into_split());
            // A connection ends when one direction has ended.
            tokio::select! {
                () = copy(from, forth, mode.clone()) => {}
                () = copy(back, to, mode) => {}
            }
        });
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        let passes = mode.wait_for(|mode| *mode == Mode::Pass).await.is_ok();
        if !passes || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
