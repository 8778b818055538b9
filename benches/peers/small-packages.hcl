# What `sixty.hcl` is in small, for what needs an archive: a root, under the name that is measured.
recipe {
  name              = "pk"
  source_date_epoch = 1700000000
}
stage "bootstrap" "tools" {
  distribution = "debian"
  suite        = "bookworm"
  packages     = ["apt"]
}
