//! The client library's way to the broker: a socket, with TLS or without, whose bytes pass a [`Screen`].
//!
//! The library takes a stream of the type that its runtime's reactor makes. Ours is tokio's reactor with another type of stream.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_rs::{
    Runtime, Tokio,
    traits::Reactor,
    util::{DummyIO, RuntimeParts},
};
use futures_util::{AsyncRead, AsyncWrite, Stream};
use lapin::tcp::AsyncTcpStream;

use super::screen::Screen;

/// What the screen takes at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Tokio's stream of a socket.
type Socket = <Tokio as Reactor>::TcpStream;

/// The runtime that the client library runs on: the tokio runtime that this is called in.
pub(super) fn runtime() -> Runtime<RuntimeParts<Tokio, Screening>> {
    let tokio = Tokio::current();
    Runtime::new(RuntimeParts::new(tokio.clone(), Screening(tokio)))
}

/// A connection to the broker.
pub(super) struct Screened {
    stream: AsyncTcpStream<Socket>,
    screen: Screen,
    chunk: Box<[u8]>,
    /// What may be read, from `given` on.
    ready: Vec<u8>,
    given: usize,
}

impl Screened {
    pub(super) fn new(stream: AsyncTcpStream<Socket>) -> Screened {
        Screened {
            stream,
            screen: Screen::default(),
            chunk: vec![0; CHUNK_BYTES].into(),
            ready: Vec::new(),
            given: 0,
        }
    }
}

impl AsyncRead for Screened {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        while this.given == this.ready.len() {
            this.ready.clear();
            this.given = 0;
            let read = Pin::new(&mut this.stream).poll_read(cx, &mut this.chunk);
            let count = ready!(read)?;
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            this.screen.take(&this.chunk[..count], &mut this.ready);
        }
        let count = (&this.ready[this.given..]).read(buffer)?;
        this.given += count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Screened {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Tokio's reactor, whose streams are screened.
#[derive(Clone, Debug)]
pub(super) struct Screening(Tokio);

impl Reactor for Screening {
    type TcpStream = Screened;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// The client library registers nothing.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Screened>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async { Ok(Screened::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}
