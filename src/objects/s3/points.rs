//! The fault points of S3: before every request, whatever it is for, and behind its answer.

use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

use crate::faults::{Faults, Lost};

/// The client with a point before and behind every request.
pub(super) fn between(http: HttpClient, faults: Faults) -> HttpClient {
    HttpClient::new(Points { http, faults })
}

struct Points {
    http: HttpClient,
    faults: Faults,
}

impl std::fmt::Debug for Points {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.http.fmt(f)
    }
}

#[async_trait::async_trait]
impl HttpService for Points {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let name = match request.method().as_str() {
            "GET" => "objects.get",
            "HEAD" => "objects.head",
            "PUT" => "objects.put",
            "POST" => "objects.post",
            "DELETE" => "objects.delete",
            _ => "objects.request",
        };
        let http = self.http.clone();
        let request = async move { http.execute(request).await };
        match self.faults.request(name, request).await {
            Ok(answer) => answer,
            Err(Lost { sent, error }) => {
                let kind = if sent {
                    HttpErrorKind::Interrupted
                } else {
                    HttpErrorKind::Connect
                };
                Err(HttpError::new(kind, error))
            }
        }
    }
}
