//! What a request's headers say of its visitor: the cookie, and what the
//! visitor asked not to be done (DNT, GPC, `SP-Anonymous`).
//!
//! - The cookie's id becomes `network_id`, where the event brings none. Where
//!   there is no such cookie, that of [`crate::layer`] has the id: the pages' server
//!   and the trackers in the pages then have one (docs/adr/0003). A new id is given to browsers only (`Origin`, `Referer` or `Sec-Fetch-Site` is
//!   there): a server that sends for many visitors would get a new one with
//!   every request, and its events no visitor of their own.
//! - `DNT: 1` and `Sec-GPC: 1` are recorded in `consent`, as `"dnt":true` and
//!   `"gpc":true`; what else they cause is [`RespectDnt`].
//! - With `SP-Anonymous` there is no `network_id`, whatever the cookie says,
//!   and the cookie expires. Snowplow writes it as an id of zeros; here it is
//!   nothing, since all its visitors would be stitched to one.

use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::header::{ORIGIN, REFERER, SET_COOKIE};
use axum::response::Response;
use clickmill_schemas::{Event, RawJson};
use uuid::Uuid;

use super::cookie::{VisitorCookie, id_named};
use super::tail::TailToken;
use crate::layer::DEFAULT_COOKIE;

/// What `DNT: 1` or `Sec-GPC: 1` causes, beside being recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RespectDnt {
    /// Nothing.
    RecordOnly,
    /// No cookie is read or set.
    #[default]
    NoCookie,
    /// As `NoCookie`, and the event has no `user_id`, `anonymous_id`,
    /// `network_id`, `device_id` and `client_session_id`. What the shop itself
    /// put into `properties` stays.
    Anonymous,
}

/// What the protocols do beyond taking events.
#[derive(Clone, Debug)]
pub struct Options {
    /// The visitor cookie; none by default.
    pub cookie: Option<VisitorCookie>,
    /// The name of the cookie of [`crate::layer`], whose id stands in for that of
    /// `cookie`: it is read, never set. [`crate::layer::DEFAULT_COOKIE`] by default.
    pub site_cookie: Option<String>,
    /// What a visitor's DNT and GPC cause.
    pub respect_dnt: RespectDnt,
    /// Hosts that `/r/tp2?u=` redirects to; none by default, and then there is
    /// no such route.
    pub redirect_hosts: Vec<String>,
    /// Who has it may watch the events at [`super::TAIL_PATH`]; nobody by default.
    pub tail_token: Option<TailToken>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cookie: None,
            site_cookie: Some(DEFAULT_COOKIE.to_owned()),
            respect_dnt: RespectDnt::default(),
            redirect_hosts: Vec::new(),
            tail_token: None,
        }
    }
}

/// The visitor of one request.
pub(super) struct Visitor {
    network_id: Option<Uuid>,
    set_cookie: Option<HeaderValue>,
    /// `SP-Anonymous`.
    anonymous: bool,
    /// DNT or GPC, and [`RespectDnt::Anonymous`].
    drop_ids: bool,
    dnt: bool,
    gpc: bool,
}

impl Visitor {
    /// `nuid` is the id that a Snowplow client has from elsewhere.
    pub fn of(options: &Options, headers: &HeaderMap, nuid: Option<Uuid>) -> Self {
        let one = |name: &str| headers.get(name).is_some_and(|value| value == "1");
        let (dnt, gpc) = (one("dnt"), one("sec-gpc"));
        let anonymous = headers.contains_key("sp-anonymous");
        let asked = dnt || gpc;
        let no_cookie = anonymous || (asked && options.respect_dnt != RespectDnt::RecordOnly);
        let cookie = options.cookie.as_ref();
        let sent = cookie.and_then(|cookie| cookie.read(headers));
        let (network_id, set_cookie) = if no_cookie {
            (None, cookie.filter(|_| sent.is_some()).and_then(VisitorCookie::expire))
        } else {
            let browser = headers.contains_key(ORIGIN)
                || headers.contains_key(REFERER)
                || headers.contains_key("sec-fetch-site");
            let site = options.site_cookie.as_deref();
            let of_site = || site.and_then(|name| id_named(name, headers));
            let known = nuid.or(sent).or_else(of_site);
            let id = known.or_else(|| (cookie.is_some() && browser).then(Uuid::new_v4));
            (id, cookie.zip(id).and_then(|(cookie, id)| cookie.set(id)))
        };
        let drop_ids = asked && options.respect_dnt == RespectDnt::Anonymous;
        Self { network_id, set_cookie, anonymous, drop_ids, dnt, gpc }
    }

    /// Its part of what every event gets.
    pub fn finish(&self, event: &mut Event<'_>) {
        if event.network_id.is_none() {
            event.network_id = self.network_id.map(|id| id.to_string().into());
        }
        if self.anonymous {
            event.network_id = None;
        }
        if self.drop_ids {
            event.user_id = None;
            event.anonymous_id = None;
            event.network_id = None;
            event.device_id = None;
            event.client_session_id = None;
        }
        for (signal, set) in [("dnt", self.dnt), ("gpc", self.gpc)] {
            if set {
                event.consent = with_signal(event.consent.take(), signal);
            }
        }
    }

    /// Its part of the answer.
    pub fn answer(self, response: &mut Response) {
        if let Some(cookie) = self.set_cookie {
            response.headers_mut().append(SET_COOKIE, cookie);
        }
    }
}

/// `consent` with `"signal":true`. Consent that is no object goes below `sent`.
fn with_signal(consent: Option<RawJson<'_>>, signal: &str) -> Option<RawJson<'static>> {
    let sent = consent.map(RawJson::into_owned);
    let text = match sent.as_ref().map(RawJson::get) {
        None | Some("{}" | "null") => format!("{{\"{signal}\":true}}"),
        Some(object) if object.starts_with('{') => {
            if object.contains(&format!("\"{signal}\":true")) {
                object.to_owned()
            } else {
                format!("{},\"{signal}\":true}}", &object[..object.len() - 1])
            }
        }
        Some(other) => format!("{{\"sent\":{other},\"{signal}\":true}}"),
    };
    // Both parts are JSON, so this cannot fail; were it to, what was sent would stay.
    match RawJson::parse(&text) {
        Ok(joined) => Some(joined.into_owned()),
        Err(_) => sent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_added_to_consent_of_any_form() {
        let add = |sent: Option<&str>| {
            let sent = sent.map(|text| RawJson::parse(text).expect("json"));
            with_signal(sent, "gpc").expect("json").get().to_owned()
        };
        assert_eq!(add(None), "{\"gpc\":true}");
        assert_eq!(add(Some("{}")), "{\"gpc\":true}");
        assert_eq!(add(Some("{\"ads\":false}")), "{\"ads\":false,\"gpc\":true}");
        assert_eq!(add(Some("{\"gpc\":true}")), "{\"gpc\":true}");
        assert_eq!(add(Some("\"G111\"")), "{\"sent\":\"G111\",\"gpc\":true}");
    }
}
