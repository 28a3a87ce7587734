//! Where a request comes from: looked up in a MaxMind file while its address
//! is at hand, and all that is left of the address afterwards.
//!
//! The file is a GeoIP2 or GeoLite2 City or Country database
//! (<https://maxmind.github.io/MaxMind-DB/>), held in memory (a City database
//! has about 60 MB) and read again when it changes. `country` is ISO 3166-1
//! alpha-2, `region` the English name of the largest subdivision, `city` the
//! English name. An address that is not in the file gives none of them, and
//! so does a file that turns out to be damaged: an event is never lost to it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clickmill_schemas::Event;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use maxminddb::{MaxMindDbError, Reader, geoip2};

use super::reload::Reloading;

/// What is kept of an IPv4 address, where any of it is.
pub const TRUNCATED_IPV4_BITS: u8 = 24;
/// What is kept of an IPv6 address, where any of it is.
pub const TRUNCATED_IPV6_BITS: u8 = 48;

/// A database of places.
#[derive(Debug)]
pub struct GeoIp(pub(super) Arc<Reloading<Reader<Vec<u8>>>>);

/// Why there is no database of places.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the MaxMind database {}", path.display())]
pub struct GeoIpError {
    path: PathBuf,
    source: MaxMindDbError,
}

/// What is known of a request's address once the address is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub country: Option<String>,
    pub region: Option<String>,
    pub city: Option<String>,
    /// The network, as `192.0.2.0/24`.
    pub ip_truncated: Option<String>,
}

impl GeoIp {
    /// Reads the database in `path`.
    ///
    /// # Errors
    /// [`GeoIpError`] where it cannot be read or is no such database.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, GeoIpError> {
        let path = path.into();
        let paths = vec![path.clone()];
        let load = move || {
            let read = std::fs::read(&path).map_err(MaxMindDbError::from);
            let reader = read.and_then(Reader::from_source);
            reader.map_err(|source| GeoIpError { path: path.clone(), source })
        };
        Reloading::open("geoip", paths, load).map(|file| Self(Arc::new(file)))
    }

    fn look_up(&self, address: IpAddr) -> Place {
        let reader = self.0.get();
        let found = reader.lookup(address).and_then(|found| found.decode::<geoip2::City<'_>>());
        let city = match found {
            Ok(Some(city)) => city,
            Ok(None) => return Place::default(),
            Err(error) => {
                // Its kind only: the text may name what was looked up.
                let kind = match error {
                    MaxMindDbError::InvalidDatabase { .. } => "invalid database",
                    MaxMindDbError::Decoding { .. } => "damaged record",
                    _ => "refused",
                };
                tracing::debug!(kind, "no place from the MaxMind database");
                return Place::default();
            }
        };
        let text = |text: Option<&str>| text.map(str::to_owned);
        let region = city.subdivisions.first();
        Place {
            country: text(city.country.iso_code),
            region: text(region.and_then(|region| region.names.english.or(region.iso_code))),
            city: text(city.city.names.english),
            ip_truncated: None,
        }
    }
}

impl Place {
    /// All that may be kept of `address`.
    pub fn of(address: IpAddr, geo: Option<&GeoIp>, keep_network: KeepNetwork) -> Self {
        let mut place = geo.map(|geo| geo.look_up(address)).unwrap_or_default();
        if keep_network == KeepNetwork::Truncated {
            place.ip_truncated = Some(truncate(address).to_string());
        }
        place
    }

    /// Sets what the event does not say itself.
    pub fn finish<'a>(&self, event: &mut Event<'a>) {
        let fill = |column: &mut Option<std::borrow::Cow<'a, str>>, value: &Option<String>| {
            if column.is_none() {
                *column = value.clone().map(Into::into);
            }
        };
        // A place is one thing: a client's city with our country would be none.
        if event.country.is_none() && event.region.is_none() && event.city.is_none() {
            fill(&mut event.country, &self.country);
            fill(&mut event.region, &self.region);
            fill(&mut event.city, &self.city);
        }
        fill(&mut event.ip_truncated, &self.ip_truncated);
    }
}

/// Whether anything of the address itself is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepNetwork {
    /// Nothing.
    #[default]
    Nothing,
    /// The first [`TRUNCATED_IPV4_BITS`] or [`TRUNCATED_IPV6_BITS`] bits.
    Truncated,
}

fn truncate(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(v4) => Ipv4Net::new_assert(v4, TRUNCATED_IPV4_BITS).trunc().into(),
        IpAddr::V6(v6) => Ipv6Net::new_assert(v6, TRUNCATED_IPV6_BITS).trunc().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_cut_to_its_network() {
        for (address, network) in [
            ("203.0.113.77", "203.0.113.0/24"),
            ("::ffff:203.0.113.77", "203.0.113.0/24"),
            ("2001:db8:1234:5678::9", "2001:db8:1234::/48"),
        ] {
            assert_eq!(truncate(address.parse().expect("ip")).to_string(), network);
        }
        let place = Place::of("203.0.113.77".parse().expect("ip"), None, KeepNetwork::Nothing);
        assert_eq!(place, Place::default());
    }
}
