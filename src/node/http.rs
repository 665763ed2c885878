//! The HTTP listener: like `axum::serve`, with an end to clients that begin a request and never finish its header.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Longest time for the header of a request, from the connection's start or the end of the request before.
const HEADER_MAX: Duration = Duration::from_secs(30);

/// Serves `routes` until `stop`; requests in hand are finished.
pub(super) async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    serve_with(listener, routes, stop, HEADER_MAX).await;
}

async fn serve_with(listener: TcpListener, routes: Router, stop: CancellationToken, header_max: Duration) {
    let mut connections = JoinSet::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, client)) => {
                connections.spawn(answer(stream, client, routes.clone(), stop.clone(), header_max));
            }
            Err(error) => {
                // out of file descriptors, say: the next moment may be better
                tracing::warn!(%error, "a connection to the HTTP listener was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn answer(
    stream: TcpStream,
    client: SocketAddr,
    routes: Router,
    stop: CancellationToken,
    header_max: Duration,
) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(client));
        let routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_max)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %client, "an HTTP connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_header_that_never_ends_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let whose = async |ConnectInfo(client): ConnectInfo<SocketAddr>| client.ip().to_string();
        let routes = Router::new().route("/", get(whose));
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve_with(listener, routes, stop.clone(), Duration::from_millis(300)));
        let talk = async |said: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            let mut heard = Vec::new();
            let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut heard)).await;
            assert!(read.is_ok(), "the connection stays open after {said:?}");
            String::from_utf8_lossy(&heard).into_owned()
        };
        assert!(!talk("GET / HTTP/1.1\r\nHost: x\r\nX-Half: ").await.contains("200 OK"));
        let whole = talk("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(whole.contains("200 OK") && whole.ends_with("127.0.0.1"), "{whole}");
        stop.cancel();
        server.await.unwrap();
    }
}
