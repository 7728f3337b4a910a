//! The server itself: it listens, has the guard look at every request, and ends when it is told to.

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

/// Largest body of a request that does not say otherwise.
pub(super) const BODY: usize = 64 << 20;
/// Connections at a time; more are told to come back.
const CONNECTIONS: usize = 512;
/// How often the stop flag is looked at.
const BEAT: Duration = Duration::from_millis(100);
/// What running answers get to end after a stop.
const GRACE: Duration = Duration::from_secs(3);

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// The address; others than the loopback one want a token.
    pub host: IpAddr,
    /// The port; any free one if 0.
    pub port: u16,
    /// Whether anybody may come in without a token.
    pub public: bool,
}

/// Serves until `stop` is set. `say` hears the address to open.
pub fn serve(router: Router, listening: ServerOptions, stop: &Arc<AtomicBool>, say: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "cannot begin to serve")?;
    runtime.block_on(async {
        let (host, port) = (listening.host, listening.port);
        let listener = TcpListener::bind(SocketAddr::new(host, port)).await.map_err(|error| {
            Error::new(format!("cannot listen on {host}:{port}: {error}")).environment().hint("name another with `--port`")
        })?;
        let port = listener.local_addr().with_context(|| "cannot find the port")?.port();
        let token = if host.is_loopback() || listening.public { None } else { Some(secret()?) };
        let shown = if host.is_unspecified() { "localhost".to_owned() } else { host.to_string() };
        let shown = if host.is_ipv6() && !host.is_unspecified() { format!("[{shown}]") } else { shown };
        let query = token.as_ref().map_or_else(String::new, |token| format!("?token={token}"));
        say(&format!("http://{shown}:{port}/{query}"))?;
        let guard = Arc::new(RequestGuard { address: host, port, token, busy: AtomicUsize::new(0) });
        let router = router.layer(DefaultBodyLimit::max(BODY)).layer(from_fn_with_state(guard, watch));
        let stopped = |stop: Arc<AtomicBool>| async move {
            while !stop.load(Ordering::Relaxed) {
                tokio::time::sleep(BEAT).await;
            }
        };
        let door = Door { listener, open: Arc::new(AtomicUsize::new(0)) };
        let serving = axum::serve(door, router).with_graceful_shutdown(stopped(Arc::clone(stop)));
        let late = async {
            stopped(Arc::clone(stop)).await;
            tokio::time::sleep(GRACE).await;
        };
        // Pages that listen for events never hang up by themselves.
        tokio::select! {
            served = serving => served.with_context(|| "cannot go on serving"),
            () = late => Ok(()),
        }
    })?;
    runtime.shutdown_timeout(GRACE);
    Ok(())
}

/// 128 bits that nobody guesses.
fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .with_context(|| "this machine gives no random bytes")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Lets only so many connections in.
struct Door {
    listener: TcpListener,
    open: Arc<AtomicUsize>,
}

/// A connection that is counted.
struct Counted {
    stream: TcpStream,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Listener for Door {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            let Ok((mut stream, address)) = self.listener.accept().await else {
                // Out of files, say: that may pass.
                tokio::time::sleep(BEAT).await;
                continue;
            };
            let open = Arc::clone(&self.open);
            if open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS {
                return (Counted { stream, open }, address);
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

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
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
