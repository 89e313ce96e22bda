//! What a plugin may publish and subscribe to: nothing unless listed.

use std::sync::Arc;

use crate::topic::{TopicError, TopicFilter, TopicName};

/// The host's own topics begin with this level; `remote management` will use it.
pub const HOST_PREFIX: &str = "alphorn";

/// The rights of one plugin, as its configuration lists them. Clones share the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    publish: Arc<[TopicFilter]>,
    subscribe: Arc<[TopicFilter]>,
    /// `reserved = true`: topics under `$…` and the host's prefix may be granted.
    reserved: bool,
}

/// Why a list of grants is not usable.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The text is no filter.
    #[error("`{filter}` is not a topic filter: {cause}")]
    Filter {
        /// As it stands in the configuration.
        filter: String,
        /// The rule it breaks.
        cause: TopicError,
    },
    /// `{client_id}` would smuggle levels or wildcards into a grant.
    #[error(
        "`{filter}` can't take the client id `{client_id}`, which contains one of / + #: choose another client id or write the levels out"
    )]
    ClientId {
        /// As it stands in the configuration.
        filter: String,
        /// The device's.
        client_id: String,
    },
    /// A reserved topic is granted without saying so.
    #[error(
        "`{0}` grants topics reserved for the broker ($…) or the host ({HOST_PREFIX}/…); if that is meant, set `reserved = true` for the plugin"
    )]
    Reserved(String),
}

impl Grants {
    /// Reads the lists of a plugin's configuration; `{client_id}` is filled in.
    pub fn new(publish: &[String], subscribe: &[String], reserved: bool, client_id: &str) -> Result<Self, GrantError> {
        let parse = |filters: &[String]| {
            filters.iter().map(|filter| grant(filter, reserved, client_id)).collect::<Result<Arc<_>, _>>()
        };
        Ok(Self { publish: parse(publish)?, subscribe: parse(subscribe)?, reserved })
    }

    /// A topic or a filter of the configuration, with the client id in place of `{client_id}`.
    pub fn fill_in(text: &str, client_id: &str) -> Result<String, GrantError> {
        const PLACEHOLDER: &str = "{client_id}";
        if text.contains(PLACEHOLDER) && client_id.contains(['/', '+', '#']) {
            return Err(GrantError::ClientId { filter: text.into(), client_id: client_id.into() });
        }
        Ok(text.replace(PLACEHOLDER, client_id))
    }

    /// A grant covers the topic.
    pub fn allow_publish(&self, topic: &TopicName) -> bool {
        let first = topic.levels().next().unwrap_or_default();
        self.publish.iter().any(|grant| self.reaches(grant, first) && grant.matches(topic))
    }

    /// A grant covers everything the filter asks for. A filter that begins with a
    /// wildcard asks the broker for the host's topics as well; those are not routed
    /// to plugins, so that is no reason to refuse it.
    pub fn allow_subscribe(&self, filter: &TopicFilter) -> bool {
        let first = filter.levels().next().unwrap_or_default();
        self.subscribe.iter().any(|grant| self.reaches(grant, first) && grant.contains(filter))
    }

    /// Why a filter that is granted today will not be by the next version: a shared subscription takes
    /// messages away from the others of its group, so it has to be granted as such.
    pub fn doubt_subscribe(&self, filter: &TopicFilter) -> Option<String> {
        let first = filter.levels().next().unwrap_or_default();
        let covers = |grant: &TopicFilter| self.reaches(grant, first) && grant.contains(filter);
        if !self.subscribe.iter().any(covers) {
            return None;
        }
        if self.subscribe.iter().any(|grant| grant.group() == filter.group() && covers(grant)) {
            return None;
        }
        let wanted = match filter.group() {
            Some(group) => format!("a grant in `subscribe` that begins with `$share/{group}/`"),
            None => "a grant in `subscribe` without `$share/…`".to_owned(),
        };
        Some(format!("`{filter}` is granted by this version; the next one wants {wanted} for it"))
    }

    /// Why a response topic that is let pass today will not be by the next version: whoever answers
    /// publishes there on the plugin's word.
    pub fn doubt_response(&self, topic: &TopicName) -> Option<String> {
        let first = topic.levels().next().unwrap_or_default();
        let covers = |grant: &TopicFilter| self.reaches(grant, first) && grant.matches(topic);
        if self.publish.iter().chain(self.subscribe.iter()).any(covers) {
            return None;
        }
        Some(format!(
            "the response topic `{topic}` is let pass by this version; the next one wants a grant for it in \
             `publish` or in `subscribe`"
        ))
    }

    /// Whether a topic may be published to, and why.
    pub fn explain_publish(&self, topic: &str) -> Result<String, String> {
        let topic = TopicName::parse(topic).map_err(|cause| format!("`{topic}` is not a topic: {cause}"))?;
        let first = topic.levels().next().unwrap_or_default();
        self.explain(&self.publish, "publish", topic.as_str(), first, &|grant| grant.matches(&topic))
    }

    /// Whether a filter may be subscribed to, and why.
    pub fn explain_subscribe(&self, filter: &str) -> Result<String, String> {
        let filter = TopicFilter::parse(filter.to_owned())
            .map_err(|cause| format!("`{filter}` is not a topic filter: {cause}"))?;
        let first = filter.levels().next().unwrap_or_default();
        let why =
            self.explain(&self.subscribe, "subscribe", filter.as_str(), first, &|grant| grant.contains(&filter))?;
        Ok(self.doubt_subscribe(&filter).unwrap_or(why))
    }

    fn explain(
        &self,
        grants: &[TopicFilter],
        key: &str,
        topic: &str,
        first: &str,
        covers: &dyn Fn(&TopicFilter) -> bool,
    ) -> Result<String, String> {
        if let Some(grant) = grants.iter().find(|grant| self.reaches(grant, first) && covers(grant)) {
            return Ok(format!("`{topic}` is granted by `{grant}` in `{key}`"));
        }
        if grants.is_empty() {
            return Err(format!("`{topic}` is not granted: `{key}` lists nothing, and what is not listed is denied"));
        }
        if is_reserved(first) {
            return Err(format!(
                "`{topic}` is not granted: `{first}/…` is reserved, so it takes a filter in `{key}` that begins with \
                 that level, and `reserved = true`"
            ));
        }
        let listed: Vec<_> = grants.iter().map(|grant| format!("`{grant}`")).collect();
        let partly =
            |grant: &&TopicFilter| TopicFilter::parse(topic.to_owned()).is_ok_and(|topic| topic.contains(grant));
        let hint = match grants.iter().find(partly) {
            Some(grant) => format!("; it is wider than `{grant}`, and has to lie within"),
            None => String::new(),
        };
        Err(format!("`{topic}` is not granted: `{key}` lists {}{hint}", listed.join(", ")))
    }

    /// The filters it may publish to, for messages.
    pub fn publish(&self) -> &[TopicFilter] {
        &self.publish
    }

    /// The filters it may subscribe to, for messages.
    pub fn subscribe(&self) -> &[TopicFilter] {
        &self.subscribe
    }

    /// Wildcards never reach reserved topics, whatever MQTT says they match.
    fn reaches(&self, grant: &TopicFilter, first_level: &str) -> bool {
        !is_reserved(first_level) || (self.reserved && !grant.begins_with_wildcard())
    }
}

fn grant(text: &str, reserved: bool, client_id: &str) -> Result<TopicFilter, GrantError> {
    let filter = TopicFilter::parse(Grants::fill_in(text, client_id)?)
        .map_err(|cause| GrantError::Filter { filter: text.into(), cause })?;
    if !reserved && filter.levels().next().is_some_and(is_reserved) {
        return Err(GrantError::Reserved(text.into()));
    }
    Ok(filter)
}

fn is_reserved(first_level: &str) -> bool {
    first_level.starts_with('$') || first_level == HOST_PREFIX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(publish: &[&str], subscribe: &[&str], reserved: bool) -> Result<Grants, GrantError> {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Grants::new(&own(publish), &own(subscribe), reserved, "gateway-7")
    }

    fn may_publish(grants: &Grants, topic: &str) -> bool {
        grants.allow_publish(&TopicName::parse(topic).unwrap())
    }

    fn may_subscribe(grants: &Grants, filter: &str) -> bool {
        grants.allow_subscribe(&TopicFilter::parse(filter).unwrap())
    }

    #[test]
    fn nothing_is_allowed_unless_listed() {
        let none = Grants::default();
        assert!(!may_publish(&none, "a"));
        assert!(!may_subscribe(&none, "a"));
    }

    #[test]
    fn it_can_be_explained() {
        let all = grants(&["a/+", "$aws/x"], &["a/b"], true).unwrap();
        assert_eq!(all.explain_publish("a/b").unwrap(), "`a/b` is granted by `a/+` in `publish`");
        for (explained, words) in [
            (all.explain_publish("a/b/c"), "lists `a/+`, `$aws/x`"),
            (all.explain_publish("a/#"), "not a topic"),
            (all.explain_publish("$aws/y"), "is reserved"),
            (all.explain_subscribe("a/+"), "wider than `a/b`"),
            (Grants::default().explain_subscribe("a"), "lists nothing"),
        ] {
            let why = explained.unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn the_client_id_is_filled_in() {
        let grants = grants(&["dt/{client_id}/+"], &[], false).unwrap();
        assert!(may_publish(&grants, "dt/gateway-7/x"));
        assert!(!may_publish(&grants, "dt/gateway-8/x"));
        let error = Grants::new(&["{client_id}/a".into()], &[], false, "+").unwrap_err();
        assert!(error.to_string().contains("client id"), "{error}");
    }

    #[test]
    fn a_subscription_must_lie_within_its_grant() {
        let grants = grants(&[], &["a/+"], false).unwrap();
        assert!(may_subscribe(&grants, "a/b"));
        assert!(may_subscribe(&grants, "a/+"));
        assert!(!may_subscribe(&grants, "a/#"));
        assert!(!may_subscribe(&grants, "#"));
    }

    #[test]
    fn a_shared_subscription_wants_a_grant_of_its_group() {
        let doubt = |subscribe: &[&str], filter: &str| {
            let grants = grants(&[], subscribe, false).unwrap();
            let filter = TopicFilter::parse(filter).unwrap();
            assert!(grants.allow_subscribe(&filter), "{filter} is granted by this version");
            grants.doubt_subscribe(&filter)
        };
        assert_eq!(doubt(&["$share/g/a/#"], "$share/g/a/b"), None);
        assert_eq!(doubt(&["a/#", "$share/g/a/+"], "$share/g/a/b"), None);
        assert_eq!(doubt(&["a/#"], "a/+"), None);
        for (granted, filter, words) in [
            ("a/#", "$share/g/a/b", "begins with `$share/g/`"),
            ("$share/other/a/#", "$share/g/a/b", "begins with `$share/g/`"),
            ("$share/g/a/#", "a/b", "without `$share/…`"),
        ] {
            let why = doubt(&[granted], filter).unwrap();
            assert!(why.contains(words) && why.contains("the next one"), "{why}");
            let explained = grants(&[], &[granted], false).unwrap().explain_subscribe(filter).unwrap();
            assert!(explained.contains(words), "{explained}");
        }
        let none = grants(&[], &["a"], false).unwrap();
        assert_eq!(none.doubt_subscribe(&TopicFilter::parse("$share/g/b").unwrap()), None, "refused already");
    }

    #[test]
    fn a_response_topic_wants_a_grant_of_either_kind() {
        let grants = grants(&["out/#"], &["in/+", "#"], false).unwrap();
        let doubt = |topic: &str| grants.doubt_response(&TopicName::parse(topic).unwrap());
        assert_eq!((doubt("out/a"), doubt("in/a")), (None, None));
        assert!(doubt("$aws/things/other/shadow/update").unwrap().contains("the next one wants a grant"));
        assert!(doubt("alphorn/gateway-7/jobs").is_some(), "wildcards never cover reserved topics");
        assert!(Grants::default().doubt_response(&TopicName::parse("a").unwrap()).is_some());
    }

    #[test]
    fn wildcards_never_cover_reserved_topics() {
        let all = grants(&["#"], &["#"], true).unwrap();
        assert!(may_publish(&all, "a/b"));
        assert!(!may_publish(&all, "$aws/things/x"));
        assert!(!may_publish(&all, "alphorn/gateway-7/status"));
        assert!(!may_subscribe(&all, "$aws/#"));
    }

    #[test]
    fn reserved_topics_need_a_literal_first_level_and_the_word() {
        assert!(matches!(grants(&["$aws/x"], &[], false), Err(GrantError::Reserved(_))));
        assert!(matches!(grants(&["alphorn/x"], &[], false), Err(GrantError::Reserved(_))));
        let grants = grants(&["$aws/things/{client_id}/#"], &[], true).unwrap();
        assert!(may_publish(&grants, "$aws/things/gateway-7/shadow/update"));
        assert!(!may_publish(&grants, "$aws/things/gateway-8/shadow/update"));
    }
}
