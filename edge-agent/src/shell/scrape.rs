//! Reads the metrics pages of pods, for the next sample.
//!
//! In the background, with limits on time, bytes and series: a pod that is slow, hangs or answers
//! with nonsense costs its own figures and nothing else. Asks loopback, and pods that have an address of
//! their own at that, and nobody else.

mod text;

use super::system::Readings;
use crate::ports::ScrapeTarget;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use shared::in_words;
use shared::model::PodId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::debug;

/// From the connection to the end of the page.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a page: some thousand series, of which a few are wanted.
const PAGE_BYTES_MAX: usize = 256 * 1024;

/// Pages that are read at once.
const SCRAPES_MAX: usize = 8;

/// Reads pages.
#[derive(Debug)]
pub(super) struct Scraper {
    seen: Arc<Mutex<Seen>>,
    turns: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Seen {
    values: Readings,
    under_way: BTreeSet<PodId>,
}

impl Scraper {
    pub(super) fn new() -> Self {
        Self { seen: Arc::default(), turns: Arc::new(Semaphore::new(SCRAPES_MAX)) }
    }

    /// Begins to read these; one that is still being read is left out. Within a tokio runtime.
    pub(super) fn begin(&self, targets: Vec<ScrapeTarget>) {
        for target in targets {
            if !lock(&self.seen).under_way.insert(target.pod.clone()) {
                continue;
            }
            let (seen, turns) = (Arc::clone(&self.seen), Arc::clone(&self.turns));
            tokio::spawn(async move {
                let turn = turns.acquire().await;
                let read = tokio::time::timeout(SCRAPE_TIMEOUT, read(&target)).await;
                drop(turn);
                let values = read.unwrap_or_else(|_| Err("no page within a second".to_owned()));
                let mut seen = lock(&seen);
                seen.under_way.remove(&target.pod);
                match values {
                    Ok(values) => seen.values.extend(values),
                    Err(error) => debug!(pod = %target.pod, error, "its metrics were not read"),
                }
            });
        }
    }

    /// What was read since the last call.
    pub(super) fn take(&self) -> Readings {
        std::mem::take(&mut lock(&self.seen).values)
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // Readings are put and taken whole: a panic leaves none half done.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(target: &ScrapeTarget) -> Result<Readings, String> {
    let page = fetch(target).await?;
    let page = std::str::from_utf8(&page).map_err(|error| error.to_string())?;
    let own: BTreeMap<&str, String> =
        [("namespace", target.pod.workload.namespace().to_owned()), ("pod", target.pod.name())]
            .into();
    let values = text::select(page, &target.metrics, target.besides.as_deref()).into_iter();
    Ok(values
        .map(|(mut series, value)| {
            // Whatever the pod says of itself, these are what it is.
            let labels = own.iter().map(|(label, value)| ((*label).to_owned(), value.clone()));
            Arc::make_mut(&mut series.labels).extend(labels);
            (series, value)
        })
        .collect())
}

async fn fetch(target: &ScrapeTarget) -> Result<Bytes, String> {
    let address = SocketAddr::from((target.host, target.port));
    let stream = TcpStream::connect(address).await.map_err(|error| in_words(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| in_words(&error))?;
    let exchange = async move {
        let request = Request::get(&target.path)
            .header(HOST, address.to_string())
            .header(ACCEPT, "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4")
            .body(Empty::<Bytes>::new())
            .map_err(|error| in_words(&error))?;
        let response = sender.send_request(request).await.map_err(|error| in_words(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), PAGE_BYTES_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    };
    tokio::pin!(exchange);
    // Both end with the exchange; nothing of the connection is left behind.
    tokio::select! {
        page = &mut exchange => page,
        ended = connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(in_words(&error)),
        },
    }
}

/// How many series are wanted of a page of metrics; for fuzzing.
#[cfg(fuzzing)]
#[must_use]
pub fn series_of_page(page: &str, names: &[String]) -> usize {
    text::select(page, names, None).len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::telemetry::Series;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A pod that answers with `page` after the head of a request, then closes.
    async fn pod(page: String) -> ScrapeTarget {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(page.as_bytes()).await;
            }
        });
        let (pod, path) = ("default/ocr-0".parse().unwrap(), "/metrics".to_owned());
        let host = Ipv4Addr::LOCALHOST.into();
        ScrapeTarget { pod, host, port, path, metrics: vec![], besides: None }
    }

    fn answer(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn what_a_pod_says_is_in_the_next_sample_once_under_its_own_name() {
        let page = "# TYPE ocr_requests counter\nocr_requests_total{pod=\"else\",code=\"200\"} 3\n";
        let target = pod(answer(page)).await;
        let scraper = Scraper::new();
        scraper.begin(vec![target.clone(), target]);
        let mut values = Readings::new();
        while values.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            values = scraper.take();
        }
        let series = Series::new("ocr_requests_total").with("code", "200");
        let series = series.with("namespace", "default").with("pod", "ocr-0");
        assert_eq!(values, [(series, 3.0)].into());
        assert!(scraper.take().is_empty() && lock(&scraper.seen).under_way.is_empty());
    }

    #[tokio::test]
    async fn a_pod_that_hangs_or_answers_with_nonsense_leaves_nothing() {
        let endless = answer("").replace("Content-Length: 0", "Content-Length: 9999999")
            + &"x 1\n".repeat(PAGE_BYTES_MAX / 4 + 1);
        let cases =
            ["".to_owned(), "garbage".to_owned(), "HTTP/1.1 500 No\r\n\r\n".to_owned(), endless];
        for page in cases {
            assert!(
                read(&pod(page.clone()).await).await.is_err(),
                "{}",
                &page[..page.len().min(80)]
            );
        }
        let nobody = ScrapeTarget { port: 1, ..pod(String::new()).await };
        assert!(read(&nobody).await.is_err());
    }
}
