//! What an input lacks for true answers, and the commands that add it.

use netpolc_kube_sync::{Absent, Input, missing, survey};

const POD: &str = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nspec: \
                   {nodeName: n1}\nstatus: {podIP: 10.0.0.1}\n";
const POLICY: &str = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: \
                      p, namespace: shop}\nspec: {podSelector: {}, ingress: [{from: \
                      [{namespaceSelector: {matchLabels: {team: a}}}]}]}\n";
const NODE: &str = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: shop}\n\
                       spec: {ports: [{port: 80}]}\n";
const NAMESPACE: &str = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
const GROUP_POLICY: &str = "---\napiVersion: vpcresources.k8s.aws/v1beta1\nkind: \
                            SecurityGroupPolicy\nmetadata: {name: g, namespace: shop}\nspec: \
                            {serviceAccountSelector: {}, securityGroups: {groupIds: [sg-1]}}\n";

fn found(parts: &[&str]) -> Vec<String> {
    let survey = survey([Input::bytes("f", parts.concat())], Absent::Absent);
    assert_eq!(survey.loaded.problems, []);
    missing(&survey).iter().map(ToString::to_string).collect()
}

#[test]
fn each_thing_that_is_missing_is_a_sentence_with_its_command() {
    for (parts, command) in [
        (&[POLICY][..], "kubectl get pods -A"),
        (&[POD, NODE, SERVICE, NAMESPACE], "kubectl get networkpolicies -A"),
        (&[POD, POLICY, SERVICE, NAMESPACE], "kubectl get nodes"),
        (&[POD, POLICY, NODE, NAMESPACE], "kubectl get services -A"),
        (&[POD, POLICY, NODE, SERVICE], "kubectl get namespaces"),
    ] {
        let said = found(parts);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(&format!("; add the output of `{command}")), "{said:?}");
    }
    assert_eq!(found(&[POD, POLICY]).len(), 3);
    let groups = found(&[POD, GROUP_POLICY, NODE, SERVICE, NAMESPACE]);
    assert!(groups[0].contains("aws ec2 describe-security-groups"), "{groups:?}");
    assert!(groups[1].contains("kubectl get serviceaccounts -A"), "{groups:?}");
}

#[test]
fn nothing_is_missing_that_changes_no_answer() {
    assert_eq!(found(&[POD, POLICY, NODE, SERVICE, NAMESPACE]), Vec::<String>::new());
    let own = POLICY.replace("namespaceSelector: {matchLabels: {team: a}}", "podSelector: {}");
    assert_eq!(found(&[POD, &own, NODE, SERVICE]), Vec::<String>::new());
    let by_name = POLICY.replace("team", "kubernetes.io/metadata.name");
    assert_eq!(found(&[POD, &by_name, NODE, SERVICE]), Vec::<String>::new());
    assert_eq!(found(&[NODE, SERVICE]), Vec::<String>::new());
}

#[test]
fn many_names_are_counted() {
    let pod =
        |i: usize| POD.replace("name: a,", &format!("name: a{i},")).replace("n1", &format!("n{i}"));
    let pods: String = (0..5).map(pod).collect();
    let said = found(&[&pods, POLICY, SERVICE, NAMESPACE]);
    assert!(said[0].starts_with("pods run on nodes n0, n1, n2 and 2 more, which"), "{said:?}");
}
