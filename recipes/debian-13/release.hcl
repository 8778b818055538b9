variable "release" {
  type        = string
  default     = "13"
  description = "Debian's major version: 12 or 13."
  validation {
    condition     = contains(["12", "13"], var.release)
    error_message = "releases are 12 and 13"
  }
}
