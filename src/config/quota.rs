//! `[quota]`: how much a tenant may keep.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::leaf;
use super::units::Size;
use crate::id::Tenant;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Of all files of a tenant, with its trash, versions and copies; None: no limit.
    #[serde(with = "leaf")]
    pub max_bytes: Option<Size>,
    #[serde(with = "leaf")]
    pub max_files: Option<u64>,
    /// `[quota.tenants.NAME]`: what is different for one tenant.
    pub tenants: BTreeMap<Tenant, TenantQuota>,
}

/// A key that is unset is as for every tenant.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TenantQuota {
    #[serde(with = "leaf")]
    pub max_bytes: Option<Size>,
    #[serde(with = "leaf")]
    pub max_files: Option<u64>,
}

impl Quota {
    /// What this tenant may keep: bytes and files.
    pub fn of(&self, tenant: &Tenant) -> (Option<u64>, Option<u64>) {
        let own = self.tenants.get(tenant);
        let max_bytes = own.and_then(|own| own.max_bytes).or(self.max_bytes);
        let max_files = own.and_then(|own| own.max_files).or(self.max_files);
        (max_bytes.map(Size::bytes), max_files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_tenant_wins() {
        let quota: Quota = toml(
            "max_bytes = '1GiB'\nmax_files = 10\n[tenants.acme]\nmax_bytes = '5GiB'\n[tenants.small]\nmax_files = 0",
        );
        let of = |name: &str| quota.of(&name.parse().unwrap());
        assert_eq!(of("other"), (Some(1 << 30), Some(10)));
        assert_eq!(of("acme"), (Some(5 << 30), Some(10)));
        assert_eq!(of("small"), (Some(1 << 30), Some(0)));
        let none = Quota::default();
        assert_eq!(none.of(&"acme".parse().unwrap()), (None, None));
    }

    fn toml(text: &str) -> Quota {
        use figment::providers::{Format, Toml};
        figment::Figment::from(Toml::string(text))
            .extract()
            .unwrap()
    }
}
