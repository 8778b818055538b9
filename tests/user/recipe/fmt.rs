//! Formatting: examples, and that twice is once. That no token changes is asserted where it is done.

use impasto::recipe::format;

fn formatted(text: &str) -> String {
    let once = format("x.hcl", text).unwrap_or_else(|errors| panic!("{errors}"));
    let twice = format("x.hcl", &once).unwrap_or_else(|errors| panic!("{once}\n{errors}"));
    assert_eq!(once, twice, "formatting twice changes nothing more");
    once
}

#[test]
fn attributes_are_aligned_and_indented() {
    let text = "stage \"run\"   \"x\"{\nfrom=stage.base\n      commands=[\n\"a\",\n   \"b\"]\n\n\n\nenv={A=1,BB =  2}\nlonger=\"x\"\n}\n\n\n";
    insta::assert_snapshot!(formatted(text));
}

#[test]
fn expressions_get_their_spaces() {
    let text = "locals {\na=1+2*-3\nb=!true&&false||x.y[0].z[*].w.*.v\nc=f( a , b... )\nd=[for k,v in m:k=>v if v!=null]\n\
                e={for k,v in m : k=>v...}\nf=a?b:c\ng=\"${ a }\"\nh={a:1,b = 2}\ni=(1)\nj=[ ]\nk={ }\nl=[for x in (y): -x]\n\
                m=a==b\nn=a<=b\no=-a\np=[-1,-2]\nq=x [0]\nr=x[ 0 ]\ns=a.b. c\n}\n";
    let text = text.replace(
        "d=[for k,v in m:k=>v if v!=null]",
        "d=[for k,v in m: v if v!=null]",
    );
    insta::assert_snapshot!(formatted(&text));
}

#[test]
fn comments_and_heredocs_stay() {
    let text = "# first\n\n\n// second\nlocals { # third\n/* fourth\n     goes on */\na=1 # one\nlonger=2 // two\n\nb=<<EOT\n   kept   \n\n\n x\nEOT\nc=<<-EOT\n  kept ${a+b}\n  EOT\n# last\n}\n";
    insta::assert_snapshot!(formatted(text));
}

#[test]
fn nested_brackets_indent_once() {
    let text = "x = [{\na = 1\n}, {\nb = 2\n}]\ny = foo(bar, {\na = [\n1,\n],\n})\nz = {\na = {\nbb = 1\n}\nccc = 2\n}\n";
    insta::assert_snapshot!(formatted(text));
}

#[test]
fn what_is_formatted_stays() {
    for text in ["", "a = 1\n", "block {\n  a = 1\n}\n", "# x\n"] {
        assert_eq!(formatted(text), text);
    }
    assert_eq!(formatted("a = 1"), "a = 1\n");
    assert_eq!(formatted("a = 1\r\nb = 2\r\n"), "a = 1\nb = 2\n");
}

#[test]
fn fixtures_can_be_formatted() {
    for entry in std::fs::read_dir("tests/fixtures/recipes/bad").expect("the directory is there") {
        let path = entry.expect("an entry").path();
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        if format("x", &text).is_ok() {
            formatted(&text);
        }
    }
}

#[test]
fn a_closing_word_within_a_directive_closes_nothing() {
    let text = "a = <<-EOT\n  %{ if true ~}\nEOT\n  b   c\n  %{ endif }\n  EOT\n";
    assert_eq!(formatted(text), text);
}

#[test]
fn wrong_text_is_refused() {
    let errors = format("x.hcl", "a = \"b\n").expect_err("the quote is open");
    assert!(errors.render(false).contains("this quote is never closed"));
}
