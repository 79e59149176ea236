//! A TCP proxy between client and server that can cut, stall and restore the connections through it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    /// Connections opened before a cut end at it.
    cuts: u64,
    /// New connections end at once.
    refuses: bool,
    /// Nothing passes, and nobody is told.
    stalled: bool,
    /// As with a resource alarm at the server: clients are told, and nothing of theirs passes.
    blocked: bool,
    /// What clients send waits, and nobody is told.
    held: bool,
    /// What clients send from the first declaration of a queue on gets lost.
    holds_declarations: bool,
}

/// The proxy. It ends with the process.
#[derive(Clone)]
pub(super) struct Proxy {
    weather: Arc<watch::Sender<Weather>>,
    opened: Arc<AtomicU64>,
    ended: Arc<watch::Sender<usize>>,
    held_declarations: Arc<watch::Sender<usize>>,
}

/// The beginning of `queue.declare`.
const DECLARE: &[u8] = b"\0\x32\0\x0a\0\0";

/// `connection.blocked` with a reason, and `connection.unblocked`, as frames.
const BLOCKED: &[u8] = b"\x01\0\0\0\0\0\x0b\0\x0a\0\x3c\x06memory\xce";
const UNBLOCKED: &[u8] = b"\x01\0\0\0\0\0\x04\0\x0a\0\x3d\xce";

impl Proxy {
    /// Listens on a free port, for the server of this URL; returns the URL through the proxy as well.
    pub(super) async fn start(url: &str) -> (Proxy, String) {
        let (head, authority, vhost) = split(url);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy {
            weather: Arc::new(watch::Sender::new(Weather::default())),
            opened: Arc::default(),
            ended: Arc::default(),
            held_declarations: Arc::default(),
        };
        tokio::spawn(accept(listener, authority.to_owned(), proxy.clone()));
        (proxy, format!("{head}{address}{vhost}"))
    }

    /// Ends all connections.
    pub(super) fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Ends all connections, and each new one at once, until [`restore`](Self::restore).
    pub(super) fn refuse(&self) {
        self.weather.send_modify(|weather| {
            weather.cuts += 1;
            weather.refuses = true;
        });
    }

    /// Connections stay open and nothing passes: half-open for both sides.
    pub(super) fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalled = true);
    }

    /// Does what a server short of memory does to connections that publish: tells them, and reads no more. Call it while the server is quiet.
    pub(super) fn block(&self) {
        self.weather.send_modify(|weather| weather.blocked = true);
    }

    /// Tells that it is over, and passes what was held back.
    pub(super) fn unblock(&self) {
        self.weather.send_modify(|weather| weather.blocked = false);
    }

    /// What clients send waits in front of the server, until [`restore`](Self::restore).
    pub(super) fn hold(&self) {
        self.weather.send_modify(|weather| weather.held = true);
    }

    /// What a client sends from its next declaration of a queue on gets lost, and nobody is told.
    pub(super) fn hold_declarations(&self) {
        self.weather
            .send_modify(|weather| weather.holds_declarations = true);
    }

    /// How many connections wait with a declaration.
    pub(super) fn held_declarations(&self) -> watch::Receiver<usize> {
        self.held_declarations.subscribe()
    }

    /// How many connections have ended.
    pub(super) fn ended(&self) -> watch::Receiver<usize> {
        self.ended.subscribe()
    }

    /// How many connections were opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// What comes from now on passes, and what was held. What was stalled stays so: its bytes are lost.
    pub(super) fn restore(&self) {
        self.weather.send_modify(|weather| {
            weather.refuses = false;
            weather.stalled = false;
            weather.held = false;
            weather.holds_declarations = false;
        });
    }
}

/// `amqp://user:password@`, `host:port`, `/vhost`.
fn split(url: &str) -> (&str, &str, &str) {
    let start = url
        .rfind('@')
        .map_or(url.find("://").unwrap() + 3, |at| at + 1);
    let end = url[start..]
        .find(['/', '?'])
        .map_or(url.len(), |at| start + at);
    (&url[..start], &url[start..end], &url[end..])
}

async fn accept(listener: TcpListener, server: String, proxy: Proxy) {
    let weather = proxy.weather.clone();
    loop {
        let (client, _) = listener.accept().await.unwrap();
        proxy.opened.fetch_add(1, Relaxed);
        if weather.borrow().refuses {
            continue;
        }
        let (server, proxy) = (server.clone(), proxy.clone());
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(server).await {
                join(client, server, &proxy).await;
            }
            proxy.ended.send_modify(|ended| *ended += 1);
        });
    }
}

async fn join(client: TcpStream, server: TcpStream, proxy: &Proxy) {
    let mut weather = proxy.weather.subscribe();
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let opened = weather.borrow().cuts;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass_on(from_client, to_server, proxy);
    let back = pass_back(from_server, to_client, weather.clone());
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = weather.wait_for(|weather| weather.cuts != opened) => {}
    }
}

/// Passes bytes from a client on, and holds them back while it is blocked or held.
async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, proxy: &Proxy) {
    let mut weather = proxy.weather.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        let size = *read.as_ref().unwrap_or(&0);
        let mut parts = buffer[..size].windows(DECLARE.len());
        if weather.borrow().holds_declarations && parts.any(|part| part == DECLARE) {
            proxy.held_declarations.send_modify(|held| *held += 1);
            // Until the client ends it.
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
            return;
        }
        let _ = weather
            .wait_for(|weather| !weather.blocked && !weather.held)
            .await;
        if !pass(read, &buffer, &mut to, &weather).await {
            return;
        }
    }
}

/// Passes bytes from the server back, and tells when the client is blocked.
async fn pass_back(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut told = false;
    loop {
        let blocked = weather.borrow_and_update().blocked;
        if blocked != told {
            told = blocked;
            let frame = if blocked { BLOCKED } else { UNBLOCKED };
            let _ = to.write_all(frame).await;
        }
        tokio::select! {
            read = from.read(&mut buffer) => {
                if !pass(read, &buffer, &mut to, &weather).await {
                    return;
                }
            }
            _ = weather.changed() => {}
        }
    }
}

/// Passes on what was read; false at the end. A connection that was stalled once never passes anything again.
async fn pass(
    read: std::io::Result<usize>,
    buffer: &[u8],
    to: &mut OwnedWriteHalf,
    weather: &watch::Receiver<Weather>,
) -> bool {
    if weather.borrow().stalled {
        std::future::pending::<()>().await;
    }
    match read {
        Ok(size) if size > 0 => to.write_all(&buffer[..size]).await.is_ok(),
        _ => false,
    }
}
