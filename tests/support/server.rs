//! A small HTTP server that does what it is told, also what no server should do. Remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use impasto::debian::mirror::Mirror;

/// What a visitor asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    headers: Vec<String>,
}

impl Request {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The first byte that it asks for.
    pub(crate) fn start(&self) -> Option<usize> {
        self.header("Range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// The length that is announced, where it is not the body's; `Some(None)` is none.
    pub(crate) length: Option<Option<usize>>,
    /// Bytes of the body that are sent before the connection is closed.
    pub(crate) cut: Option<usize>,
    /// Silence before the rest of the body, which is never sent then.
    pub(crate) silence: Option<Duration>,
}

impl Answer {
    /// A file.
    pub(crate) fn ok(body: &[u8]) -> Answer {
        Answer {
            status: "200 OK",
            headers: Vec::new(),
            body: body.to_vec(),
            length: None,
            cut: None,
            silence: None,
        }
    }

    /// No file.
    pub(crate) fn status(status: &'static str) -> Answer {
        Answer {
            status,
            ..Answer::ok(b"no\n")
        }
    }

    /// Another place.
    pub(crate) fn redirect(to: &str) -> Answer {
        Answer::status("302 Found").header(&format!("Location: {to}"))
    }

    /// The rest of a file, from the byte that was asked for, or all of it.
    pub(crate) fn part(request: &Request, body: &[u8]) -> Answer {
        match request.start() {
            Some(start) => Answer {
                status: "206 Partial Content",
                ..Answer::ok(&body[start..])
            }
            .header(&format!(
                "Content-Range: bytes {start}-{}/{}",
                body.len() - 1,
                body.len()
            )),
            None => Answer::ok(body),
        }
    }

    pub(crate) fn header(mut self, line: &str) -> Answer {
        self.headers.push(line.to_owned());
        self
    }

    pub(crate) fn cut(self, len: usize) -> Answer {
        Answer {
            cut: Some(len),
            ..self
        }
    }
}

/// A server; it lives as long as the process.
pub(crate) struct Server {
    pub(crate) port: u16,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers every request, given its number, from 0.
    pub(crate) fn new(
        answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static,
    ) -> Server {
        Server::start(None, answer)
    }

    /// Likewise by https, with the certificate of `tests/fixtures/tls`.
    pub(crate) fn https(
        answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static,
    ) -> Server {
        Server::start(Some(tls()), answer)
    }

    fn start(
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, scheme) = (
            requests.clone(),
            if tls.is_some() { "https" } else { "http" },
        );
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for visitor in listener.incoming() {
                let (visitor, seen, answer, tls) =
                    (visitor.unwrap(), seen.clone(), answer.clone(), tls.clone());
                std::thread::spawn(move || {
                    // Whoever hangs up has seen enough.
                    let _ = match tls {
                        None => serve(visitor, &seen, &*answer),
                        Some(tls) => {
                            let connection = rustls::ServerConnection::new(tls).unwrap();
                            serve(
                                rustls::StreamOwned::new(connection, visitor),
                                &seen,
                                &*answer,
                            )
                        }
                    };
                });
            }
        });
        Server {
            port,
            scheme,
            requests,
        }
    }

    /// The server as a mirror.
    pub(crate) fn mirror(&self) -> Mirror {
        Mirror::parse(&self.url("debian")).unwrap()
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}/{path}", self.scheme, self.port)
    }

    /// What was asked until now.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(
    visitor: impl Read + Write,
    seen: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request) -> Answer,
) -> std::io::Result<()> {
    let mut visitor = BufReader::new(visitor);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if visitor.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut words = lines[0].split(' ');
    let method = words.next().unwrap().to_owned();
    let path = words.next().unwrap().trim_start_matches('/').to_owned();
    let request = Request {
        method,
        path,
        headers: lines.split_off(1),
    };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let answer = answer(number, &request);
    let stream = visitor.get_mut();
    write!(
        stream,
        "HTTP/1.1 {}\r\nConnection: close\r\n",
        answer.status
    )?;
    if let Some(length) = answer.length.unwrap_or(Some(answer.body.len())) {
        write!(stream, "Content-Length: {length}\r\n")?;
    }
    for line in &answer.headers {
        write!(stream, "{line}\r\n")?;
    }
    stream.write_all(b"\r\n")?;
    if request.method != "HEAD" {
        stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])?;
    }
    stream.flush()?;
    if let Some(silence) = answer.silence {
        std::thread::sleep(silence);
    }
    Ok(())
}

/// What the server's certificate is signed by: itself.
pub(crate) const CERTIFICATE: &[u8] = include_bytes!("../fixtures/tls/certificate.pem");

fn tls() -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../fixtures/tls/key.pem")).unwrap();
    let certificates = vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(
        config
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .unwrap(),
    )
}

/// Closes without sending anything: a port where nobody listens.
pub(crate) fn nobody() -> Mirror {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    Mirror::parse(&format!("http://127.0.0.1:{port}/debian")).unwrap()
}
