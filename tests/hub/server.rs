//! An HTTP server on this machine, which writes down what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// How many bytes of a body were the answer.
    pub sent: usize,
}

impl Request {
    /// The first byte that is asked for, if not the whole.
    pub fn first_byte(&self) -> Option<usize> {
        let range = self.headers.get("range")?;
        let first = range.strip_prefix("bytes=").unwrap().strip_suffix('-');
        Some(first.unwrap().parse().unwrap())
    }
}

/// An answer.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection ends after so many bytes of the body.
    pub cut: Option<usize>,
    /// Does not say how long the body is.
    pub hides_length: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn write(&self, method: &str, stream: &mut TcpStream) -> std::io::Result<usize> {
        write!(
            stream,
            "HTTP/1.1 {} Status\r\nConnection: close\r\n",
            self.status
        )?;
        if !self.hides_length {
            write!(stream, "Content-Length: {}\r\n", self.body.len())?;
        }
        for (name, value) in &self.headers {
            write!(stream, "{name}: {value}\r\n")?;
        }
        stream.write_all(b"\r\n")?;
        if method == "HEAD" {
            return Ok(0);
        }
        let length = self.cut.unwrap_or(self.body.len()).min(self.body.len());
        stream.write_all(&self.body[..length])?;
        Ok(length)
    }
}

/// The server; it stops with the test.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream.unwrap(), &*answer, &log));
            }
        });
        Self { url, requests }
    }

    /// What was asked since the last call.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers = lines
        .map(Result::unwrap)
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let mut request = Request {
        method,
        path,
        headers,
        sent: 0,
    };
    let reply = answer(&request);
    // Written down before the answer ends, so that whoever has it finds the request; a client that goes
    // away in the middle is no failure.
    let mut log = log.lock().unwrap();
    request.sent = reply.write(&request.method, &mut stream).unwrap_or(0);
    log.push(request);
}
