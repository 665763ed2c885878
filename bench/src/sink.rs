//! Who takes the mail: Postfix's `smtp-sink` where it is installed, else a small receiver in this process.

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::{postfix, server};

/// A receiver that takes everything and keeps nothing.
pub(crate) struct Sink {
    port: u16,
    kind: Kind,
}

enum Kind {
    Process(Box<Mutex<Child>>),
    Own(JoinHandle<()>),
}

impl Sink {
    /// Starts one; with `messages` it ends by itself after that many, where `smtp-sink` is installed.
    pub(crate) async fn start(messages: Option<usize>) -> anyhow::Result<Self> {
        let Some(program) = postfix::tool("smtp-sink") else {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            return Ok(Self {
                port: listener.local_addr()?.port(),
                kind: Kind::Own(tokio::spawn(take_all(listener))),
            });
        };
        let port = server::free_port()?;
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "nobody"]);
        }
        if let Some(messages) = messages {
            command.arg("-M").arg(messages.to_string());
        }
        command.arg(format!("127.0.0.1:{port}")).arg("1000");
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        for _ in 0..500 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                return Ok(Self { port, kind: Kind::Process(Box::new(Mutex::new(process))) });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("smtp-sink did not listen on port {port}")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Waits until the sink has got the messages that it was started for.
    pub(crate) async fn wait_full(&self, at_most: Duration) -> anyhow::Result<()> {
        let Kind::Process(process) = &self.kind else { bail!("only smtp-sink counts") };
        let mut process = process.lock().await;
        tokio::time::timeout(at_most, process.wait()).await.context("the sink to get the last message")??;
        Ok(())
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        match self.kind {
            Kind::Process(process) => process.into_inner().kill().await?,
            Kind::Own(task) => task.abort(),
        }
        Ok(())
    }
}

async fn take_all(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(take(stream)); // a session that breaks is the sender's loss
    }
}

/// One session: every command is fine, and so is every message.
async fn take(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::with_capacity(16 * 1024, read);
    write.write_all(b"220 sink.example ESMTP\r\n").await?;
    let (mut line, mut in_data) = (Vec::new(), false);
    loop {
        line.clear();
        if read.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.to_ascii_uppercase().as_slice() {
            b".\r\n" if in_data => {
                in_data = false;
                b"250 2.0.0 Ok\r\n"
            }
            _ if in_data => continue,
            b"DATA\r\n" => {
                in_data = true;
                b"354 End data with <CR><LF>.<CR><LF>\r\n"
            }
            b"QUIT\r\n" => return write.write_all(b"221 2.0.0 Bye\r\n").await,
            [b'E', b'H', b'L', b'O', ..] => b"250-sink.example\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            _ => b"250 2.1.0 Ok\r\n",
        };
        write.write_all(reply).await?;
    }
}
