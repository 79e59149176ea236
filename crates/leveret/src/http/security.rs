//! Which scope each request needs, and what the document says of it.

use axum::http::Method;
use utoipa::openapi::{
    Components, ContentBuilder, OpenApi, PathItem, Ref, RefOr, Required, ResponseBuilder,
    path::{Operation, ParameterIn},
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::guard::{Scope, ScopeOf};

/// The scope of a request. Health and webhooks are open to all: those who ask for them have no tokens.
pub(super) fn scope(method: &Method, path: &str) -> Option<Scope> {
    if path.starts_with("/health/") || path.starts_with("/webhooks/") {
        return None;
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return Some(Scope::Read);
    }
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let is_of_runs = *method == Method::POST
        && matches!(
            segments[..],
            ["api", "v1", "workflows", _, "runs"]
                | ["api", "v1", "runs" | "schedules" | "signals", ..]
        );
    Some(if is_of_runs { Scope::Run } else { Scope::Admin })
}

/// Adds to each guarded operation that it takes a token, and how it is refused.
pub(crate) fn describe(document: &mut OpenApi, scope_of: ScopeOf) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    for (path, item) in &mut document.paths.paths {
        operations(item).for_each(require_path);
        if scope_of(&Method::GET, path).is_some() {
            operations(item).for_each(guard);
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let all = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
    ];
    all.into_iter().filter_map(Option::as_mut)
}

/// What is in a path is always there; the macros say so only of types that they know.
fn require_path(operation: &mut Operation) {
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.parameter_in == ParameterIn::Path
        {
            parameter.required = Required::True;
        }
    }
}

fn guard(operation: &mut Operation) {
    // Without tokens none is needed.
    let either = [
        SecurityRequirement::default(),
        SecurityRequirement::new("token", Vec::<String>::new()),
    ];
    operation.security = Some(either.into());
    for (status, description) in [
        ("401", "There are tokens, and this is none"),
        (
            "403",
            "The token does not let do it; without tokens: a web page of others asked",
        ),
    ] {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProblemBody")));
        let response = ResponseBuilder::new()
            .description(description)
            .content("application/problem+json", content.build())
            .build();
        let responses = &mut operation.responses.responses;
        responses.insert(status.to_owned(), response.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_requests() {
        let check =
            |method: Method, path: &str, expect| assert_eq!(scope(&method, path), expect, "{path}");
        check(Method::GET, "/health/live", None);
        check(Method::POST, "/webhooks/r/n", None);
        check(Method::POST, "/api/v1/runs/r/approvals/n", Some(Scope::Run));
        check(Method::GET, "/api/v1/approvals", Some(Scope::Read));
        check(Method::GET, "/metrics", Some(Scope::Read));
        check(Method::GET, "/api/v1/runs/a/events", Some(Scope::Read));
        check(Method::POST, "/api/v1/workflows/w/runs", Some(Scope::Run));
        check(Method::POST, "/api/v1/runs/a/cancel", Some(Scope::Run));
        check(Method::POST, "/api/v1/schedules/s/run", Some(Scope::Run));
        check(Method::POST, "/api/v1/runs/a/signals", Some(Scope::Run));
        check(Method::POST, "/api/v1/signals", Some(Scope::Run));
        check(Method::PUT, "/api/v1/schedules/s", Some(Scope::Admin));
        check(Method::DELETE, "/api/v1/schedules/s", Some(Scope::Admin));
        check(Method::PUT, "/api/v1/workflows/w", Some(Scope::Admin));
        check(Method::DELETE, "/api/v1/runs/a", Some(Scope::Admin));
        check(Method::POST, "/api/v1/whatever", Some(Scope::Admin));
        check(Method::POST, "/healthy", Some(Scope::Admin));
    }
}
