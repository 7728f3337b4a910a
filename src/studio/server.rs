//! The HTTP server: binds the address, applies the request checks, limits connections, shuts down gracefully.

use super::security::{RequestGuard, watch};
use crate::error::{Error, Result, ResultExt};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::serve::Listener;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Default limit of a request body, in bytes (64 MiB).
pub(super) const BODY: usize = 64 << 20;
/// Limit on open connections; further ones are answered with 503 and `Retry-After`.
const CONNECTIONS: usize = 512;
/// Interval between polls of the stop flag.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time that open requests get to finish after a stop.
const GRACE: Duration = Duration::from_secs(3);

/// Where the server listens, and who has access.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// The address to bind. Non-loopback addresses require an access token unless `public` is set.
    pub host: IpAddr,
    /// The port; 0 picks a free one.
    pub port: u16,
    /// Whether access without a token is allowed.
    pub public: bool,
}

/// Serves until `stop` is set. `say` is called once with the URL to open, including the token.
pub fn serve(router: Router, listening: ServerOptions, stop: &Arc<AtomicBool>, say: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "failed to start the server")?;
    runtime.block_on(async {
        let (host, port) = (listening.host, listening.port);
        let listener = TcpListener::bind(SocketAddr::new(host, port)).await.map_err(|error| {
            Error::new(format!("cannot listen on {host}:{port}: {error}")).environment().hint("choose another port with `--port`")
        })?;
        let port = listener.local_addr().with_context(|| "cannot read the port of the server")?.port();
        let token = if host.is_loopback() || listening.public { None } else { Some(random_token()?) };
        let shown = if host.is_unspecified() { "localhost".to_owned() } else { host.to_string() };
        let shown = if host.is_ipv6() && !host.is_unspecified() { format!("[{shown}]") } else { shown };
        let query = token.as_ref().map_or_else(String::new, |token| format!("?token={token}"));
        say(&format!("http://{shown}:{port}/{query}"))?;
        let guard = Arc::new(RequestGuard { address: host, port, token, busy: AtomicUsize::new(0) });
        let router = router.layer(DefaultBodyLimit::max(BODY)).layer(from_fn_with_state(guard, watch));
        let stopped = |stop: Arc<AtomicBool>| async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let listener = LimitedListener { listener, open: Arc::new(AtomicUsize::new(0)) };
        let serving = axum::serve(listener, router).with_graceful_shutdown(stopped(Arc::clone(stop)));
        let shutdown_deadline = async {
            stopped(Arc::clone(stop)).await;
            tokio::time::sleep(GRACE).await;
        };
        // Event streams stay open forever, so a graceful shutdown needs a time limit.
        tokio::select! {
            served = serving => served.with_context(|| "server stopped unexpectedly"),
            () = shutdown_deadline => Ok(()),
        }
    })?;
    runtime.shutdown_timeout(GRACE);
    Ok(())
}

/// A random 128-bit access token in hexadecimal.
fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .with_context(|| "cannot read random bytes from /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A listener that limits the number of open connections.
struct LimitedListener {
    listener: TcpListener,
    open: Arc<AtomicUsize>,
}

/// A connection that counts towards the limit until it is dropped.
struct CountedStream {
    stream: TcpStream,
    open: Arc<AtomicUsize>,
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener for LimitedListener {
    type Io = CountedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (CountedStream, SocketAddr) {
        loop {
            let Ok((mut stream, address)) = self.listener.accept().await else {
                // May be temporary, e.g. when the process is out of file descriptors.
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            };
            let open = Arc::clone(&self.open);
            if open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS {
                return (CountedStream { stream, open }, address);
            }
            let refusal = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";
            tokio::spawn(async move {
                let _ = tokio::time::timeout(GRACE, stream.write_all(refusal)).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
