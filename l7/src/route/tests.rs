//! Claims on the table as a whole: against a naive reference, and the rules one by one.

use proptest::prelude::*;

use super::explain::{Criterion, Verdict};
use super::spec::{ActionSpec, MatchSpec, PathSpec, RedirectSpec, RouteSpec, ValueSpec};
use super::*;

fn matching(hosts: &[&str], path: &str) -> MatchSpec {
    let path = match path {
        "" => PathSpec::Any,
        _ => match path.strip_prefix('~') {
            Some(regex) => PathSpec::Regex(regex::Regex::new(regex).expect("regex")),
            None => PathSpec::Pattern(path.to_owned()),
        },
    };
    let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
    MatchSpec { hosts, path, ..MatchSpec::default() }
}

fn route(hosts: &[&str], path: &str) -> RouteSpec {
    RouteSpec { matches: matching(hosts, path), ..RouteSpec::default() }
}

fn with_methods(path: &str, methods: &[&str]) -> RouteSpec {
    let mut route = route(&[], path);
    route.matches.methods = methods.iter().map(|&method| method.to_owned()).collect();
    route
}

fn table(routes: Vec<RouteSpec>) -> Table {
    Table::build(routes).expect("routes")
}

fn paths(written: &[&str]) -> Table {
    table(written.iter().map(|path| route(&[], path)).collect())
}

const GET: Query<'_> = Query {
    host: "a.test",
    path: "/",
    method: "GET",
    scheme: "http",
    query: "",
    fields: &NoFields,
};

fn taken(table: &Table, query: &Query<'_>) -> Option<usize> {
    match table.find(query) {
        Found::Route { route, .. } => Some(route),
        _ => None,
    }
}

fn path_taken(table: &Table, path: &str) -> Option<usize> {
    taken(table, &Query { path, ..GET })
}

fn allow(table: &Table, query: &Query<'_>) -> Option<String> {
    let Found::MethodMissed(allowed) = table.find(query) else { return None };
    let mut out = Vec::new();
    table.write_allow(allowed, &mut out);
    Some(String::from_utf8(out).expect("text"))
}

#[test]
fn an_exact_path_wins_over_the_longest_prefix_over_a_pattern_over_a_regex() {
    let table = paths(&["", "~/.*", "/{x}/b", "/a/*", "/a/b/*", "/a/b"]);
    assert_eq!(path_taken(&table, "/a/b"), Some(5));
    assert_eq!(path_taken(&table, "/a/b/c"), Some(4));
    assert_eq!(path_taken(&table, "/a/c"), Some(3));
    assert_eq!(path_taken(&table, "/z/b"), Some(2));
    assert_eq!(path_taken(&table, "/z"), Some(1));
    assert_eq!(path_taken(&table, "*"), Some(0));
}

#[test]
fn a_prefix_for_all_leaves_patterns_their_paths() {
    let table = paths(&["/*", "/o/{id}/items/*", "/{x}/b", "/v1/*", "/v1/users/{id}"]);
    assert_eq!(path_taken(&table, "/o/7/items/1"), Some(1));
    assert_eq!(path_taken(&table, "/z/b"), Some(2));
    assert_eq!(path_taken(&table, "/v1/users/7"), Some(4));
    assert_eq!(path_taken(&table, "/z"), Some(0));
}

#[test]
fn an_exact_host_wins_over_the_longest_wildcard_over_none() {
    let table = table(vec![
        route(&[], "/a"),
        route(&["*.test"], "/a"),
        route(&["*.b.test"], ""),
        route(&["a.b.test"], ""),
    ]);
    let host = |host| taken(&table, &Query { host, path: "/a", ..GET });
    assert_eq!(host("a.b.test"), Some(3));
    assert_eq!(host("x.b.test"), Some(2));
    assert_eq!(host("y.x.b.test"), Some(2), "one or more labels");
    assert_eq!(host("b.test"), Some(1));
    assert_eq!(host(".test"), Some(0), "a wildcard stands for a label");
    assert_eq!(host("test"), Some(0));
    assert_eq!(host(""), Some(0), "without Host only routes without host");
}

#[test]
fn a_host_whose_routes_do_not_fit_leaves_the_request_to_the_next() {
    let table = table(vec![route(&["a.test"], "/x"), route(&["*.test"], "/y"), route(&[], "")]);
    let at = |path| path_taken(&table, path);
    assert_eq!((at("/x"), at("/y"), at("/z")), (Some(0), Some(1), Some(2)));
}

#[test]
fn more_conditions_win_and_then_the_place_in_the_file() {
    let mut beta = route(&[], "/a");
    beta.matches.headers = vec![("x-beta".into(), ValueSpec::Any(vec!["1".into(), "2".into()]))];
    let mut both = beta.clone();
    both.matches.query = vec![("v".into(), ValueSpec::Present)];
    both.matches.cookies = vec![("c".into(), ValueSpec::Any(vec!["x".into()]))];
    let table = table(vec![route(&[], "/a"), beta, both, route(&[], "/a")]);
    let fields = [("X-Beta", "0"), ("x-BETA", "2"), ("Cookie", "a=b; c=x")];
    let asked = |query, fields| taken(&table, &Query { path: "/a", query, fields, ..GET });
    assert_eq!(asked("u=1&v", &fields), Some(2));
    assert_eq!(asked("u=1", &fields), Some(1));
    assert_eq!(asked("u=1&v", &[("x-beta", "3")]), Some(0));
}

#[test]
fn only_a_missed_method_is_405_and_allow_names_the_others() {
    let mut hidden = with_methods("/a", &["DELETE"]);
    hidden.matches.headers = vec![("x-admin".into(), ValueSpec::Present)];
    let table = table(vec![
        with_methods("/a", &["GET", "HEAD"]),
        with_methods("/a", &["POST"]),
        hidden,
        route(&[], "/b"),
    ]);
    let query = |method, path| Query { path, method, ..GET };
    assert_eq!(allow(&table, &query("PUT", "/a")).as_deref(), Some("GET, HEAD, POST"));
    assert_eq!(table.find(&query("PUT", "/c")), Found::NoRoute);
    assert_eq!(allow(&table, &query("get", "/a")).as_deref(), Some("GET, HEAD, POST"));
    assert_eq!(taken(&table, &query("PUT", "/b")), Some(3));
}

#[test]
fn connect_and_trace_find_no_route() {
    let table = table(vec![route(&[], ""), with_methods("/t", &["TRACE", "PURGE"])]);
    let query = |method, path| Query { path, method, ..GET };
    let common = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
    assert_eq!(allow(&table, &query("CONNECT", "/")).as_deref(), Some(common));
    let more = format!("{common}, PURGE");
    assert_eq!(allow(&table, &query("TRACE", "/t")).as_deref(), Some(more.as_str()));
}

#[test]
fn a_preflight_matches_as_the_method_it_asks_for() {
    let table = table(vec![with_methods("/a", &["PUT"]), with_methods("/a", &["OPTIONS"])]);
    let preflight = [("Origin", "https://x"), ("Access-Control-Request-Method", "PUT")];
    let asked = |fields| table.find(&Query { method: "OPTIONS", path: "/a", fields, ..GET });
    assert_eq!(asked(&preflight), Found::Route { route: 0, preflight: true });
    assert_eq!(asked(&NoFields), Found::Route { route: 1, preflight: false });
    let no_origin = [("Access-Control-Request-Method", "PUT")];
    assert_eq!(asked(&no_origin), Found::Route { route: 1, preflight: false });
    let get = [("Origin", "https://x"), ("Access-Control-Request-Method", "GET")];
    assert!(matches!(asked(&get), Found::MethodMissed(_)));
}

#[test]
fn a_redirect_to_the_scheme_in_use_lets_the_request_pass() {
    let mut https = route(&[], "/*");
    let redirect = RedirectSpec { scheme: Some("https".into()), ..RedirectSpec::default() };
    https.action = ActionSpec::Redirect(redirect);
    let table = table(vec![https, route(&[], "/*")]);
    assert_eq!(taken(&table, &GET), Some(0));
    assert_eq!(taken(&table, &Query { scheme: "https", ..GET }), Some(1));
    assert_eq!(table.shadowed(), [], "it does not take all requests of the second");
}

#[test]
fn a_regex_fits_the_whole_path_without_parameters() {
    let table = paths(&["~/a|/a/\\d+"]);
    assert_eq!(path_taken(&table, "/a/12"), Some(0), "the longer alternative counts too");
    assert_eq!(path_taken(&table, "/a;x/12;y=/z"), None);
    assert_eq!(path_taken(&table, "/a;x/12;y"), Some(0));
    assert_eq!(path_taken(&table, "/x/a"), None);
    assert_eq!(path_taken(&table, "/ab"), None);
}

#[test]
fn captures_are_those_of_the_route() {
    let table = paths(&["/o/{id}/*", "~/r/(?<n>\\d+)", ""]);
    let captures = table.captures(0, "/o/7/a/b");
    assert_eq!((captures.value("id"), captures.rest()), (Some("7"), Some("a/b")));
    assert_eq!(table.captures(1, "/r/12").value("n"), Some("12"));
    assert_eq!(table.captures(1, "/r;a/12;b").value("n"), Some("12"));
    let names = |route| pattern::captures_of(&table.spec(route).matches.path);
    assert_eq!(names(0).expect("a pattern"), ["id", "*"]);
    assert_eq!(names(1).expect("a regex"), ["n"]);
    assert_eq!(table.captures(2, "/o/7").value("id"), None);
}

#[test]
fn what_cannot_be_built_names_its_route() {
    let error = Table::build(vec![route(&[], "/a"), route(&[], "/a*")]).expect_err("a bad path");
    assert_eq!(error.route, 1);
    let names: Vec<String> = (0..=table::METHODS_MAX).map(|n| format!("M{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(Table::build(vec![with_methods("/", &names)]).is_err());
    assert!(Table::build(vec![with_methods("/", &names[1..])]).is_ok());
}

#[test]
fn explain_says_why_of_each_route() {
    let mut beta = route(&["a.test"], "/a");
    beta.matches.headers = vec![("x-beta".into(), ValueSpec::Present)];
    let table = table(vec![
        route(&["b.test"], "/a"),
        route(&["a.test"], "/b"),
        beta,
        route(&["a.test"], "/a"),
        route(&["a.test"], "/a"),
        route(&["*.test"], "/a"),
        route(&["a.test"], "/*"),
    ]);
    let said: Vec<String> = table
        .explain(&Query { path: "/a", ..GET })
        .iter()
        .map(|(_, verdict)| verdict.to_string())
        .collect();
    assert_eq!(
        said,
        [
            "the host does not match",
            "the path does not match",
            "header `x-beta` does not match",
            "taken",
            "another stands before it",
            "another names the host closer",
            "another names the path closer",
        ]
    );
}

#[test]
fn a_route_that_another_takes_all_of_is_shadowed() {
    let mut wide = route(&[], "/o/*");
    wide.matches.methods = vec!["GET".into(), "POST".into()];
    let mut same = wide.clone();
    same.matches.methods = vec!["GET".into()];
    let table = table(vec![
        wide,                              // 0
        same,                              // 1: fewer methods, same rank, later
        route(&[], "/o/{id}"),             // 2: free, 0 asks for a method
        route(&["a.test"], "/o/*"),        // 3: free, its host is closer
        route(&["a.test"], "/o/{id}/x"),   // 4: after the prefix 3
        route(&[], "/*"),                  // 5
        route(&[], "~/x/.*"),              // 6: after 5
        route(&["a.test", ""], "/o/{id}"), // 7: only one of its hosts is taken
    ]);
    assert_eq!(table.shadowed(), [(1, 0), (4, 3), (6, 5)]);
}

#[test]
fn a_path_in_one_case_does_not_take_all_of_the_same_in_any_case() {
    let mut folded = route(&[], "/a/{x}");
    folded.matches.ignore_case = true;
    let exact = route(&[], "/a/{x}");
    assert_eq!(table(vec![exact.clone(), folded.clone()]).shadowed(), []);
    assert_eq!(table(vec![folded, exact]).shadowed(), [(1, 0)]);
}

/// The rules as a person reads them: all routes that fit, sorted.
fn reference(routes: &[RouteSpec], query: &Query<'_>) -> Found {
    let table = table(routes.to_vec());
    let verdicts = table.explain(query);
    if let Some((route, _)) = verdicts.iter().find(|(_, verdict)| *verdict == Verdict::Taken) {
        return Found::Route { route: *route, preflight: false };
    }
    Found::NoRoute
}

/// A second reading, without the table's types: segments compared by hand, keys sorted.
fn by_hand(routes: &[RouteSpec], query: &Query<'_>) -> Option<usize> {
    let fitting = routes.iter().enumerate().filter_map(|(place, route)| {
        let host = host_by_hand(&route.matches.hosts, query.host)?;
        let path = path_by_hand(&route.matches, query.path)?;
        let methods = &route.matches.methods;
        if !methods.is_empty() && !methods.iter().any(|method| method == query.method) {
            return None;
        }
        let wanted = &route.matches.query;
        if !wanted.iter().all(|(name, _)| query.query.split('&').any(|own| own == name)) {
            return None;
        }
        let conditions = usize::from(!methods.is_empty()) + wanted.len();
        Some((host, path, -(conditions as i64), place))
    });
    fitting.min().map(|(.., place)| place)
}

fn host_by_hand(hosts: &[String], host: &str) -> Option<(u8, i64)> {
    if hosts.is_empty() {
        return Some((2, 0));
    }
    let fit = |own: &String| match own.strip_prefix('*') {
        Some(rest) => {
            (host.len() > rest.len() && host.ends_with(rest)).then_some((1, -(rest.len() as i64)))
        }
        None => (own == host).then_some((0, 0)),
    };
    hosts.iter().filter_map(fit).min()
}

type PathKey = (u8, i64, bool, i64, i64, bool);

fn path_by_hand(matches: &MatchSpec, path: &str) -> Option<PathKey> {
    let text = match &matches.path {
        PathSpec::Any => return Some((5, 0, false, 0, 0, false)),
        PathSpec::Regex(regex) => {
            let whole = regex::Regex::new(&format!("^({regex})$")).expect("regex");
            return whole.is_match(path).then_some((4, 0, false, 0, 0, false));
        }
        PathSpec::Pattern(text) => text,
    };
    let fold = |text: &str| {
        if matches.ignore_case { text.to_lowercase() } else { text.to_owned() }
    };
    let (text, path) = (fold(text), fold(path));
    let mut wanted: Vec<&str> = text.split('/').skip(1).collect();
    let given: Vec<&str> = path.split('/').skip(1).collect();
    let rest = wanted.last() == Some(&"*");
    if rest {
        wanted.pop();
    }
    if given.len() < wanted.len() || !rest && given.len() > wanted.len() {
        return None;
    }
    let is_capture = |segment: &str| segment.starts_with('{');
    let fits = |(wanted, given): (&&str, &&str)| {
        if is_capture(wanted) { !given.is_empty() } else { wanted == given }
    };
    if !wanted.iter().zip(&given).all(fits) {
        return None;
    }
    let start = wanted.iter().take_while(|segment| !is_capture(segment)).count() as i64;
    let literals = wanted.iter().filter(|segment| !is_capture(segment)).count() as i64;
    let pattern = literals < wanted.len() as i64;
    let kind = match (pattern, rest, start) {
        (false, false, _) => 0,
        (_, _, 1..) => 1,
        (true, ..) => 2,
        _ => 3,
    };
    Some((kind, -start, pattern, -literals, -(wanted.len() as i64), rest))
}

fn any_route() -> impl Strategy<Value = RouteSpec> {
    let hosts = prop::sample::subsequence(
        vec!["a.b.test", "b.test", "*.b.test", "*.test", "c.test", "*.a.b.test"],
        0..3,
    );
    let segment = prop::sample::select(vec!["a", "b", "A", "{x}", "{y}"]);
    let pattern = (prop::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(list, rest)| {
        let mut seen = Vec::new();
        let list = list.into_iter().filter(|one| {
            let twice = one.starts_with('{') && seen.contains(one);
            seen.push(*one);
            !twice
        });
        let mut text: String = list.flat_map(|segment| ["/", segment]).collect();
        if rest || text.is_empty() {
            text.push_str("/*");
        }
        text
    });
    let path = prop_oneof![
        8 => pattern,
        1 => prop::sample::select(vec!["~/a/.*", "~/[ab]+", "", "/"]).prop_map(str::to_owned),
    ];
    let methods = prop::sample::subsequence(vec!["GET", "POST"], 0..2);
    let query = prop::sample::subsequence(vec!["v", "w"], 0..2);
    (hosts, path, methods, query, any::<bool>()).prop_map(|(hosts, path, methods, query, fold)| {
        let mut route = route(&hosts, &path);
        route.matches.methods = methods.into_iter().map(str::to_owned).collect();
        let condition = |name: &str| (name.to_owned(), ValueSpec::Present);
        route.matches.query = query.into_iter().map(condition).collect();
        route.matches.ignore_case = fold && matches!(route.matches.path, PathSpec::Pattern(_));
        route
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_table_finds_what_trying_all_routes_finds(
        routes in prop::collection::vec(any_route(), 0..24),
        host in prop::sample::select(vec!["a.b.test", "b.test", "x.a.b.test", "c.test", "z", ""]),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "A", "B", "c"]), 0..5),
        slash in any::<bool>(),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        query in prop::sample::select(vec!["", "v", "w", "v&w"]),
    ) {
        let mut path: String = path.iter().flat_map(|segment| ["/", segment]).collect();
        if slash || path.is_empty() {
            path.push('/');
        }
        let query = Query { host, path: &path, method, query, ..GET };
        let built = table(routes.clone());
        let found = taken(&built, &query);
        prop_assert_eq!(found, by_hand(&routes, &query));
        let explained = reference(&routes, &query);
        prop_assert_eq!(found.is_some(), explained != Found::NoRoute);
        if let Found::Route { route, .. } = explained {
            prop_assert_eq!(found, Some(route));
        }
        let any_method = |route: &RouteSpec| {
            let mut route = route.clone();
            route.matches.methods.clear();
            route
        };
        let open: Vec<RouteSpec> = routes.iter().map(any_method).collect();
        let missed = found.is_none() && by_hand(&open, &query).is_some();
        prop_assert_eq!(matches!(built.find(&query), Found::MethodMissed(_)), missed);
    }

    #[test]
    fn a_shadowed_route_is_never_taken(
        routes in prop::collection::vec(any_route(), 0..24),
        hosts in prop::sample::select(vec!["a.b.test", "b.test", "x.a.b.test", "c.test", "z"]),
        path in prop::collection::vec(prop::sample::select(vec!["a", "b", "A", "c"]), 0..5),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        query in prop::sample::select(vec!["", "v", "v&w"]),
    ) {
        let path = if path.is_empty() { "/".to_owned() } else {
            path.iter().flat_map(|segment| ["/", segment]).collect()
        };
        let built = table(routes);
        let found = taken(&built, &Query { host: hosts, path: &path, method, query, ..GET });
        for (shadowed, by) in built.shadowed() {
            prop_assert_ne!(found, Some(shadowed), "said to be shadowed by {}", by);
        }
    }
}

#[test]
fn a_loser_is_told_by_what_it_lost() {
    let table = paths(&["/a", "/a"]);
    let verdicts = table.explain(&Query { path: "/a", ..GET });
    assert_eq!(verdicts[1].1, Verdict::Lost { route: 0, by: Criterion::Place });
}
