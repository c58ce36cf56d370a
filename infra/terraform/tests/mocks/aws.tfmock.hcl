# What AWS would answer, where a made-up string would not do.
mock_data "aws_caller_identity" {
  defaults = { account_id = "111122223333" }
}

mock_data "aws_partition" {
  defaults = { partition = "aws" }
}

mock_data "aws_availability_zones" {
  defaults = { names = ["us-east-1a", "us-east-1b", "us-east-1c", "us-east-1d"] }
}

mock_resource "aws_eks_cluster" {
  defaults = {
    arn                   = "arn:aws:eks:us-east-1:111122223333:cluster/bark"
    certificate_authority = [{ data = "Y2VydGlmaWNhdGU=" }]
  }
}

mock_resource "aws_kms_key" {
  defaults = { arn = "arn:aws:kms:us-east-1:111122223333:key/12345678-90ab-cdef-1234-567890abcdef" }
}

mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::111122223333:role/made-up" }
}

mock_resource "aws_ecr_repository" {
  defaults = { repository_url = "111122223333.dkr.ecr.us-east-1.amazonaws.com/bark-serve" }
}

# Those of S3 in us-east-1.
mock_resource "aws_vpc_endpoint" {
  defaults = { cidr_blocks = ["52.216.0.0/15", "3.5.0.0/19", "16.182.0.0/16", "54.231.0.0/16", "18.34.0.0/19"] }
}
