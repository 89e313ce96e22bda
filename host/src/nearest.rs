//! The known name nearest to one that is not known.

/// What serde says of a key that is not known, and behind it the known one that was meant.
pub(crate) fn with_nearest(message: &str) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field").then(|| names.next()).flatten();
    let nearest = unknown.and_then(|unknown| {
        names
            .map(|known| (strsim::osa_distance(unknown, known), known))
            .min()
            .filter(|(distance, known)| *distance <= known.len().max(unknown.len()) / 2)
    });
    match nearest {
        Some((_, known)) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_suggested() {
        let meant = with_nearest("unknown field `topik`, expected one of `topic`, `qos`");
        assert!(meant.ends_with("did you mean `topic`?"), "{meant}");
        for message in ["unknown field `zzzzzzz`, expected one of `topic`, `qos`", "invalid type: `a` for `b`"] {
            assert_eq!(with_nearest(message), message);
        }
    }
}
