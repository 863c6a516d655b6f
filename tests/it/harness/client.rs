//! A client of the API: reqwest, with the token, and answers that say what was wrong.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Client {
    pub fn new(url: &str, token: Option<String>) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self {
            http,
            url: url.to_owned(),
            token,
        }
    }

    /// A request to a path such as `/v1/files`, with the token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub fn head(&self, path: &str) -> RequestBuilder {
        self.request(Method::HEAD, path)
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
    }

    pub fn patch(&self, path: &str) -> RequestBuilder {
        self.request(Method::PATCH, path)
    }

    pub fn delete(&self, path: &str) -> RequestBuilder {
        self.request(Method::DELETE, path)
    }

    /// Uploads `content` under a name of `[A-Za-z0-9./_-]`; the File.
    pub async fn upload(&self, name: &str, content: impl Into<Vec<u8>>) -> Value {
        let request = self.post(&format!("/v1/files?name={name}"));
        send(request.body(content.into())).await.json(201)
    }

    /// A file's content, which must be there.
    pub async fn content(&self, id: &str) -> Vec<u8> {
        let answer = send(self.get(&format!("/v1/files/{id}/content"))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }
}

/// Sends a request and reads the answer to its end.
pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.bytes().await.unwrap().to_vec(),
    }
}

impl Answer {
    /// The header field, which must be there.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
            .to_str()
            .unwrap()
    }

    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A problem of this status and name, as every error is answered.
    pub fn problem(&self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json(status);
        assert_eq!(problem["type"], format!("urn:box-service:problem:{name}"));
        assert_eq!(problem["status"], status);
        assert_eq!(
            problem["instance"],
            format!("urn:box-service:request:{}", self.header("x-request-id"))
        );
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        problem
    }

    /// A 422 whose `errors` point at exactly these parts.
    pub fn invalid(&self, pointers: &[&str]) -> Value {
        let problem = self.problem(422, "invalid-request");
        let found: Vec<&str> = problem["errors"]
            .as_array()
            .unwrap_or_else(|| panic!("no errors in {problem}"))
            .iter()
            .map(|part| part["pointer"].as_str().unwrap())
            .collect();
        assert_eq!(found, pointers, "{problem}");
        problem
    }
}

/// The id of a File.
pub fn id(file: &Value) -> &str {
    file["id"].as_str().unwrap()
}

/// Makes a PUT that was signed, as its holder. The service's own have its configured address: `service` is
/// where it is.
pub async fn put_signed(service: &str, signed: &Value, bytes: &[u8]) -> Answer {
    assert_eq!(signed["method"], "PUT");
    let url = signed["url"].as_str().unwrap();
    let url = match url.split_once("/s/ey") {
        Some((_, token)) => format!("{service}/s/ey{token}"),
        None => url.to_owned(),
    };
    let mut request = Client::new(&url, None).put("");
    for (name, value) in signed["headers"].as_object().unwrap() {
        request = request.header(name, value.as_str().unwrap());
    }
    send(request.body(bytes.to_vec())).await
}
