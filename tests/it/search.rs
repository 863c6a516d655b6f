//! Search: what each filter of the list finds, alone and with others, page by page.

mod criteria;
mod folders;
mod metadata;
mod paging;
mod refusals;

use serde_json::Value;

use crate::harness::client::{Client, send};
use crate::harness::content::escape;

struct Page {
    items: Vec<Value>,
    /// None where the answer has none, which is right only without a delimiter.
    prefixes: Option<Vec<String>>,
    cursor: Option<String>,
}

impl Page {
    /// Names and prefixes.
    fn entries(&self) -> Vec<String> {
        let prefixes = self.prefixes.iter().flatten().cloned();
        prefixes.chain(names(&self.items)).collect()
    }
}

async fn page(client: &Client, query: &str) -> Page {
    let answer = send(client.get(&format!("/v1/files?{query}"))).await;
    let page = answer.json(200);
    let prefixes = page.get("prefixes").map(|prefixes| {
        let prefixes = prefixes.as_array().unwrap().iter();
        prefixes.map(|p| p.as_str().unwrap().to_owned()).collect()
    });
    let fields = page.as_object().unwrap().len();
    assert_eq!(fields, 2 + usize::from(prefixes.is_some()), "{page}");
    let cursor = page["next_cursor"].as_str().map(str::to_owned);
    assert!(cursor.is_some() || page["next_cursor"].is_null(), "{page}");
    Page {
        items: page["items"].as_array().unwrap().clone(),
        prefixes,
        cursor,
    }
}

/// Every page, one after the other; all but the last are full.
async fn walk(client: &Client, query: &str, limit: usize) -> Vec<Page> {
    let mut pages: Vec<Page> = Vec::new();
    let mut next = String::new();
    loop {
        let page = page(client, &format!("{query}&limit={limit}{next}")).await;
        let count = page.entries().len();
        assert!(count <= limit, "{count} of {limit} at most");
        let Some(cursor) = &page.cursor else {
            assert!(count > 0 || pages.is_empty(), "an empty page was promised");
            pages.push(page);
            return pages;
        };
        assert_eq!(count, limit, "a page before the last");
        next = format!("&cursor={}", escape(cursor));
        pages.push(page);
        assert!(pages.len() <= 200, "it does not end");
    }
}

/// The items of every page.
async fn items(client: &Client, query: &str, limit: usize) -> Vec<Value> {
    let pages = walk(client, query, limit).await;
    pages.into_iter().flat_map(|page| page.items).collect()
}

/// The names of what a query finds, in their order.
async fn found(client: &Client, query: &str) -> Vec<String> {
    names(&page(client, &format!("{query}&sort=name")).await.items)
}

fn names(files: &[Value]) -> Vec<String> {
    let names = files.iter().map(|file| file["name"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

/// An upload with more in its query, which begins with `&`.
async fn upload(client: &Client, name: &str, query: &str, content: &str) -> Value {
    let path = format!("/v1/files?name={}{query}", escape(name));
    let request = client
        .post(&path)
        .header("content-type", "application/x-own");
    send(request.body(content.to_owned())).await.json(201)
}
