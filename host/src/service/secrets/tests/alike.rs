//! Several secrets of one placeholder, each for servers of its own.

use super::*;

/// `KEY` is good.test's in its fields, and `SECOND`, which the guest knows by the same placeholder,
/// that of other.test and good.test, in bodies too.
fn alike() -> SecretsConfig {
    let mut first = secret("KEY", VALUE, "good.test");
    (first.substitution.query, first.substitution.body) = (false, false);
    let mut second = secret("SECOND", OTHER, "other.test");
    second.placeholder = Some("$MSB_KEY".to_owned());
    second.allowed_hosts.push("good.test".parse().unwrap());
    second.violation_action = Some(ViolationAction::Block);
    SecretsConfig { secrets: vec![first, second], ..SecretsConfig::default() }
}

#[test]
fn each_server_has_its_own_value_for_one_placeholder_and_nobody_else_has_any() {
    for order in [[0, 1], [1, 0]] {
        let mut config = alike();
        config.secrets = order.map(|index| config.secrets[index].clone()).to_vec();
        let snapshot = vault(config.clone()).current();
        let field = [("x", "$MSB_KEY")];
        let sent = |name: &str| head(&snapshot.scope(&peer(name)), "/?$MSB_KEY", &field);
        let first = [VALUE, OTHER][order[0]];
        assert_eq!(sent("other.test").unwrap().1, [OTHER], "{order:?}");
        // Of two that it may have the first counts that goes to that place.
        let (uri, fields) = sent("good.test").unwrap();
        assert_eq!((uri.as_str(), fields), ("/?another-value-entirely", vec![first.to_owned()]));
        let good = snapshot.scope(&peer("good.test"));
        assert_eq!(
            body(&good, "text/plain", b"a $MSB_KEY").unwrap(),
            format!("a {OTHER}").as_bytes()
        );
        assert!(!good.forbids() && snapshot.scope(&peer("evil.test")).forbids());
        let violation = sent("evil.test").unwrap_err();
        assert_eq!(violation.env_var.as_ref(), Some(&config.secrets[0].env_var), "{order:?}");
    }
}

#[test]
fn a_server_that_may_have_the_placeholder_of_one_and_not_of_the_other_has_none() {
    let mut config = alike();
    config.secrets[0].passthrough_hosts = vec!["log.test".parse().unwrap()];
    let log = vault(config.clone()).current().scope(&peer("log.test"));
    let violation = head(&log, "/", &[("x", "$MSB_KEY")]).unwrap_err();
    assert_eq!(violation.env_var.as_deref(), Some("SECOND"));
    assert_eq!(violation.action, ViolationAction::Block);
    config.secrets[1].passthrough_hosts = vec!["log.test".parse().unwrap()];
    let log = vault(config).current().scope(&peer("log.test"));
    assert_eq!(head(&log, "/", &[("x", "$MSB_KEY")]).unwrap().1, ["$MSB_KEY"]);
}
