output "arn" {
  description = "ARN of the role."
  value       = aws_iam_role.this.arn
}

output "service_account" {
  description = "The service account that has it."
  value       = var.service_account

  depends_on = [aws_eks_pod_identity_association.this]
}

output "policy" {
  description = "What it may do, as a policy document; null where AWS's own policies say it."
  value       = one(aws_iam_role_policy.this[*].policy)
}
