//! A TCP proxy between client and server that can cut, stall and restore the connections through it.

use std::sync::Arc;

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
}

/// The proxy. It ends with the process.
#[derive(Clone)]
pub(super) struct Proxy {
    weather: Arc<watch::Sender<Weather>>,
}

impl Proxy {
    /// Listens on a free port, for the server of this URL; returns the URL through the proxy as well.
    pub(super) async fn start(url: &str) -> (Proxy, String) {
        let (head, authority, vhost) = split(url);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let proxy = Proxy {
            weather: Arc::new(watch::Sender::new(Weather::default())),
        };
        tokio::spawn(accept(
            listener,
            authority.to_owned(),
            proxy.weather.clone(),
        ));
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

    /// What comes from now on passes. What was stalled stays so: its bytes are lost.
    pub(super) fn restore(&self) {
        self.weather.send_modify(|weather| {
            weather.refuses = false;
            weather.stalled = false;
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

async fn accept(listener: TcpListener, server: String, weather: Arc<watch::Sender<Weather>>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if weather.borrow().refuses {
            continue;
        }
        let (server, weather) = (server.clone(), weather.subscribe());
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(server).await {
                join(client, server, weather).await;
            }
        });
    }
}

async fn join(client: TcpStream, server: TcpStream, mut weather: watch::Receiver<Weather>) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let opened = weather.borrow().cuts;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = pass(from_client, to_server, weather.clone());
    let back = pass(from_server, to_client, weather.clone());
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = weather.wait_for(|weather| weather.cuts != opened) => {}
    }
}

/// Passes bytes on; a connection that was stalled once never passes anything again.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: watch::Receiver<Weather>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        if weather.borrow().stalled {
            std::future::pending::<()>().await;
        }
        match read {
            Ok(size) if size > 0 => {
                if to.write_all(&buffer[..size]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
