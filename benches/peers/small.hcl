# What `sixty.hcl` is in small: the same names of stages, on the disk of recipes/tiny.
recipe {
  name              = "pk"
  source_date_epoch = 1700000000
}
variable "one" { default = "gdb" }
stage "fetch" "base" { path = "base.qcow2" }
stage "run" "tools" {
  from     = stage.base
  commands = ["echo ${var.one} > /root/one"]
}
stage "run" "clean" {
  from     = stage.tools
  commands = ["rm -f /root/none"]
}
stage "convert" "qcow2" {
  from   = stage.clean
  format = "qcow2"
}
