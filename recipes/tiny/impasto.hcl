# A system with a single program: the smallest recipe that shows layers, a matrix and outputs.

recipe {
  name              = "tiny"
  source_date_epoch = 1700000000
}

variable "base" {
  type        = string
  default     = "base.qcow2"
  description = "The disk to begin with; make-base.sh makes it."
}

variable "greeting" {
  type    = string
  default = "Welcome to the $${variant} image."
}

matrix {
  variant = ["minimal", "debug"]
}

stage "fetch" "base" {
  path = var.base
}

stage "copy" "config" {
  from = stage.base
  files = {
    "/etc/profile" = { content = "export PATH=/bin:/usr/bin\n" }
    "/etc/motd"    = { content = "${replace(var.greeting, "$${variant}", matrix.variant)}\n" }
  }
}

stage "run" "users" {
  from   = stage.config
  script = file("scripts/users.sh")
  env    = { VARIANT = matrix.variant }
}

stage "run" "tools" {
  from = stage.users
  when = matrix.variant == "debug"
  commands = [
    "mkdir -p /opt/debug",
    "busybox --list > /opt/debug/applets",
  ]
}

stage "run" "versions" {
  from   = matrix.variant == "debug" ? stage.tools : stage.users
  script = file("scripts/detect-versions.sh")
  output = { "image-version.txt" = "/tmp/image-version.txt" }
}

stage "convert" "qcow2" {
  from   = stage.versions
  format = "qcow2"
}

image "tiny" {
  name  = "tiny-${matrix.variant}"
  files = [stage.qcow2, stage.versions.files["image-version.txt"]]
}
