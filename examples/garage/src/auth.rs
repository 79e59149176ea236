//! Who asks: JSON Web Tokens by HS256 with one secret of all services, and what each role may do.

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The shortest secret, in bytes: as long as what HS256 makes of it.
pub(crate) const SECRET_BYTES_MIN: usize = 32;
/// How long a token of ours is good for, in seconds.
pub(crate) const TOKEN_SECONDS: u64 = 8 * 3600;

/// What somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Sees and decides about what is his own.
    Customer,
    /// Works at the garage.
    Staff,
    /// Sees to the garage's systems, too.
    Admin,
}

/// What a token says.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default)]
    email: Option<String>,
    /// A token without a role that is known may do nothing.
    #[serde(default)]
    role: Option<String>,
    exp: u64,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// Of a customer: the customer's id.
    pub(crate) sub: String,
    pub(crate) role: Role,
}

/// Makes and checks tokens.
#[derive(Clone)]
pub(crate) struct Keys(Arc<Pair>);

struct Pair {
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    /// Of a secret.
    pub(crate) fn new(secret: &str) -> Result<Keys, String> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!(
                "JWT_SECRET has {} bytes; {SECRET_BYTES_MIN} are the least, such as `openssl rand -hex 32` makes",
                secret.len()
            ));
        }
        Ok(Keys(Arc::new(Pair {
            encoding: EncodingKey::from_secret(secret.as_bytes()),
            decoding: DecodingKey::from_secret(secret.as_bytes()),
        })))
    }

    /// Of a secret that nobody knows, for a garage that is tried out.
    pub(crate) fn random() -> Keys {
        let secret = format!("{}{}", uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        Keys::new(&secret).expect("two uuids are long enough")
    }

    /// A token; `now` in seconds since 1970.
    pub(crate) fn token(&self, sub: &str, role: Role, now: u64) -> String {
        let claims = Claims {
            sub: sub.to_owned(),
            email: None,
            role: serde_json::to_value(role)
                .ok()
                .and_then(|role| Some(role.as_str()?.to_owned())),
            exp: now + TOKEN_SECONDS,
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.0.encoding)
            .expect("claims print as JSON")
    }

    fn caller(&self, token: &str) -> Result<Caller, Failure> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_nbf = true;
        // Else a token is good for a minute after its end.
        validation.leeway = 0;
        validation.validate_aud = false;
        let read = decode::<Claims>(token, &self.0.decoding, &validation);
        let claims = read
            .map_err(|_| Failure::unauthorized("Invalid token"))?
            .claims;
        let role = match claims.role.as_deref() {
            Some("customer") => Role::Customer,
            Some("staff") => Role::Staff,
            Some("admin") => Role::Admin,
            _ => {
                let message = "The token has no role; it is one of customer, staff, admin";
                return Err(Failure::forbidden(message));
            }
        };
        Ok(Caller {
            sub: claims.sub,
            role,
        })
    }
}

/// Lets through who has a token, and says who it is. A layer of all routes that are not public.
pub(crate) async fn guard(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let Some(header) = header else {
        return Failure::unauthorized("Missing authorization header").into_response();
    };
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let caller = token
        .ok_or_else(|| Failure::unauthorized("Invalid token"))
        .and_then(|token| keys.caller(token));
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.ok_or_else(|| Failure::unauthorized("Missing authorization header"))
    }
}

impl Caller {
    /// Whether something of a customer is this caller's to see.
    pub(crate) fn may_see(&self, customer_id: i64) -> bool {
        self.role != Role::Customer || self.sub == customer_id.to_string()
    }

    /// 403 for customers.
    pub(crate) fn staff(&self) -> Result<(), Failure> {
        match self.role {
            Role::Customer => Err(Failure::forbidden("Only the garage's staff may do this")),
            Role::Staff | Role::Admin => Ok(()),
        }
    }

    /// 403 for all but administrators.
    pub(crate) fn admin(&self) -> Result<(), Failure> {
        match self.role {
            Role::Customer | Role::Staff => {
                Err(Failure::forbidden("Only an administrator may do this"))
            }
            Role::Admin => Ok(()),
        }
    }
}

/// Somebody of the staff, or an administrator.
pub(crate) struct Staff(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for Staff {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Staff, Failure> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.staff()?;
        Ok(Staff(caller))
    }
}

/// An administrator.
pub(crate) struct Admin;

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Admin, Failure> {
        let caller = Caller::from_request_parts(parts, state).await?;
        caller.admin()?;
        Ok(Admin)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::json;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const FAR: u64 = 4_000_000_000;

    fn status(token: &str) -> Result<Caller, StatusCode> {
        let caller = Keys::new(SECRET).unwrap().caller(token);
        caller.map_err(|failure| failure.status())
    }

    fn signed(secret: &str, header: &Header, claims: &serde_json::Value) -> String {
        encode(header, claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn tokens() {
        let keys = Keys::new(SECRET).unwrap();
        let good = keys.token("7", Role::Customer, FAR);
        let expected = Caller {
            sub: "7".into(),
            role: Role::Customer,
        };
        assert_eq!(status(&good), Ok(expected));
        let hs256 = Header::new(Algorithm::HS256);
        let claims = json!({ "sub": "7", "role": "admin", "exp": FAR });
        let refused = |token: &str| assert_eq!(status(token), Err(StatusCode::UNAUTHORIZED));
        refused(&signed(
            "another secret, just as long as ours",
            &hs256,
            &claims,
        ));
        refused(&signed(SECRET, &Header::new(Algorithm::HS512), &claims));
        refused(&signed(
            SECRET,
            &hs256,
            &json!({ "sub": "7", "role": "admin", "exp": 1 }),
        ));
        let lately = jsonwebtoken::get_current_timestamp() - 1;
        refused(&signed(
            SECRET,
            &hs256,
            &json!({ "sub": "7", "role": "admin", "exp": lately }),
        ));
        refused(&signed(
            SECRET,
            &hs256,
            &json!({ "sub": "7", "role": "admin" }),
        ));
        refused(&signed(
            SECRET,
            &hs256,
            &json!({ "sub": "7", "role": "admin", "exp": "4000000000" }),
        ));
        refused(&signed(
            SECRET,
            &hs256,
            &json!({ "role": "admin", "exp": FAR }),
        ));
        // {"alg":"none"} and the claims, unsigned.
        let payload = good.split('.').nth(1).unwrap();
        refused(&format!("eyJhbGciOiJub25lIn0.{payload}."));
        refused("");
        let roleless = signed(SECRET, &hs256, &json!({ "sub": "7", "exp": FAR }));
        assert_eq!(status(&roleless), Err(StatusCode::FORBIDDEN));
        assert!(Keys::new("short").unwrap_err().contains("JWT_SECRET"));
    }

    #[test]
    fn what_roles_may() {
        let of = |role| Caller {
            sub: "7".into(),
            role,
        };
        assert!(of(Role::Customer).may_see(7));
        assert!(!of(Role::Customer).may_see(70));
        assert!(of(Role::Staff).may_see(70));
        assert!(of(Role::Customer).staff().is_err());
        assert!(of(Role::Staff).admin().is_err());
        assert!(of(Role::Admin).admin().is_ok());
    }
}
